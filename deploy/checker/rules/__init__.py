"""The rules of the history checker, one file per family; `table.py` names them all."""
