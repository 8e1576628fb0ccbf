"""Builds the site with Zensical: pages are put together in a directory of their own, then built strictly.

Zensical, because Material for MkDocs is in maintenance and its makers go on here. It checks links and
anchors in under a second, and brings everything that its pages load. It reads `mkdocs.yml`, whose form is
kept to what MkDocs, the way back, reads too. Pinned, as it is before 1.0. The pages open from the disk
without a server; only the search needs one.
"""

import json
import shutil
import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path
from tempfile import TemporaryDirectory

from deploy.docs.pages import page_of, place_of, sections, title_of
from schemas.errors import Unavailable

DESCRIPTION = "Webhook delivery that never lets one broken endpoint slow down another."
MADE_BY_US = "search.json"
"""What every built site holds; a directory without it is not replaced."""
ASSETS = Path(__file__).resolve().parent / "assets"


class BuildFailed(Unavailable):
    """The site could not be built; the message says why."""


def build_site(root: Path, output: Path) -> int:
    """Builds the site of the repository at `root`, and puts it in place of what stands at `output`.

    Returns:
        How many pages it has.

    Raises:
        BrokenLink: a page links to a file that is not there.
        BuildFailed: the builder is missing, `output` holds something else, or a link or an anchor inside the
            site leads nowhere.
    """
    if output.exists() and not (output / MADE_BY_US).exists():
        raise BuildFailed(f"{output} holds something else than a site; name another directory with --output")
    if find_spec("zensical") is None:
        raise BuildFailed("zensical is not here; `./hooktide test-deps` brings the tools for development")
    with TemporaryDirectory(prefix="hooktide-site-") as made:
        work = Path(made)
        count = _put_together(root, work)
        command = [
            sys.executable,
            "-m",
            "zensical",
            "build",
            "--clean",
            "--strict",
            "--config-file",
            "mkdocs.yml",
        ]
        done = subprocess.run(
            command, cwd=work, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, check=False
        )
        if done.returncode != 0:
            raise BuildFailed(f"the site cannot be built:\n{done.stdout}")
        shutil.rmtree(output, ignore_errors=True)
        shutil.copytree(work / "site", output)
    return count


def _put_together(root: Path, work: Path) -> int:
    found = sections(root)
    pages = frozenset(name for names in found.values() for name in names)
    navigation = []
    for section, names in found.items():
        entries = []
        for name in names:
            text = page_of(name, root, pages)
            place = work / "docs" / place_of(name)
            place.parent.mkdir(parents=True, exist_ok=True)
            place.write_text(text, encoding="utf-8")
            entries.append({title_of(text): place_of(name)})
        navigation.append({section: entries})
    shutil.copytree(ASSETS, work / "docs" / "assets")
    # JSON is YAML, and needs no library to write.
    (work / "mkdocs.yml").write_text(json.dumps(_configuration(navigation), indent=1), encoding="utf-8")
    return len(pages)


def _configuration(navigation: list[dict[str, list[dict[str, str]]]]) -> dict[str, object]:
    def scheme(name: str, media: str, icon: str, other: str) -> dict[str, object]:
        toggle = {"icon": f"lucide/{icon}", "name": f"Switch to {other}"}
        return {"media": f"(prefers-color-scheme: {media})", "scheme": name, "toggle": toggle}

    return {
        "site_name": "Hooktide",
        "site_description": DESCRIPTION,
        "use_directory_urls": False,  # the pages open from the disk, too
        "nav": navigation,
        "theme": {
            "name": "material",
            "language": "en",
            "font": False,  # the reader's own: nothing is fetched from anywhere
            "icon": {"logo": "lucide/webhook"},
            "features": ["content.code.copy", "navigation.sections", "navigation.top", "navigation.footer"],
            "palette": [
                scheme("default", "light", "sun", "dark"),
                scheme("slate", "dark", "moon", "light"),
            ],
        },
        "extra": {"generator": False},
        "extra_css": ["assets/hooktide.css"],
        "markdown_extensions": [
            "tables",
            "sane_lists",
            {"toc": {"permalink": True}},
            {"pymdownx.highlight": {"anchor_linenums": False}},
            "pymdownx.superfences",
        ],
    }
