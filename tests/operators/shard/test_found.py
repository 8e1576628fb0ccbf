from schemas.command import CommandKind
from schemas.delivery import DeliveryState
from schemas.endpoint import EndpointStatus, RetryPolicy
from schemas.outcome import ErrorCode
from schemas.transition import Reason
from operators.shard.store_port import Family
from msgspec.structs import replace
from tests.operators.shard.desk import *

def test_b1_dup_after_cancel_in_block():
    d=Desk(); a=d.deliver("e1"); d.command(CommandKind.CANCEL,a); d.again(a); d.take()
    assert d.send()==[]
def test_b1b():
    d=Desk(); a=d.deliver("e1"); d.take(); d.command(CommandKind.CANCEL,a); d.again(a); d.take()
    assert d.send()==[]
def test_b2_cancel_in_flight_survives():
    d=Desk(); a=d.deliver("e1"); x=d.one(); d.cancel(a); d.engine.barrier(); d.kill()
    s=d.send(); assert s==[]; assert d.states(a)==[DeliveryState.CANCELLED]
def test_b3_memory_refill():
    eps=[endpoint(f"ep_{i}") for i in range(30)]
    d=Desk(*eps,policy=policy(live_max=50,endpoint_live_max=2,refill_max=16))
    for i in range(20):
        for e in eps: d.deliver(f"e{i}",e.id)
    d.take()
    m=0
    while s:=d.send(60):
        m=max(m,len(d.engine.state.live)); d.answer(s)
    assert m<=50+60, m
def test_b3b_memory_held():
    eps=[endpoint(f"ep_{i}",status=EndpointStatus.PAUSED) for i in range(30)]
    d=Desk(*eps,policy=policy(live_max=50,endpoint_live_max=2,refill_max=16))
    for i in range(20):
        for e in eps: d.deliver(f"e{i}",e.id)
    for _ in range(5):
        d.send(); d.engine.review_held(d.now_ms); d.later(1000)
    assert len(d.engine.state.live)<=50
def test_b4_retry_now_twice():
    d=Desk(); a=d.deliver("e1"); d.answer(d.one(),500); 
    d.command(CommandKind.RETRY_NOW,a,1); d.command(CommandKind.RETRY_NOW,a,1)
    assert len(d.send())==1
def test_b5_retry_now_fired_spilled():
    d=Desk(endpoint(max_concurrency=1),policy=policy(endpoint_live_max=1)); 
    a=d.deliver("e1"); d.answer(d.one(),500); b=d.deliver("e2"); d.answer(d.one(),500); d.later(2000)
    c=d.deliver("e3"); 
    # both fired; one in memory, other in ready
    d.command(CommandKind.RETRY_NOW,a,1); d.command(CommandKind.RETRY_NOW,b,1); d.take()
    assert not d.rows(Family.DUE)
def test_b5c():
    d=Desk(); a=d.deliver("e1"); d.answer(d.one(),500); d.command(CommandKind.RETRY_NOW,a,1); x=d.one(); 
    d.kill(); s=d.send(); assert len(s)==1; 
def test_b7_paused_window():
    d=Desk(); a=d.deliver("e1"); x=d.one(); d.now_ms+=WINDOW_MS-1000; b=d.deliver("e2"); y=d.one()
    d.answer(y,429,headers=(("retry-after",str(WINDOW_MS//1000)),)); d.answer(x,500)
    d.later(62000); d.engine.review_held(d.now_ms); assert d.states(a)[-1]==DeliveryState.DEAD_LETTERED
def test_b7_deleted_paused():
    d=Desk(); a=d.deliver("e1"); b=d.deliver("e2"); x,y=d.send(); d.answer(x,429,headers=(("retry-after","100"),))
    d.answer(y,500); d.later(6000); del d.view.by_id["ep_a"]; d.view.position=2; d.engine.wake("ep_a"); d.send()
    assert d.states(b)[-1]==DeliveryState.CANCELLED
def test_b8_window_own_longer():
    d=Desk(endpoint(retry=replace(RETRY,window_ms=10*WINDOW_MS))); a=d.deliver("e1"); d.now_ms+=2*WINDOW_MS
    assert len(d.send())==1
def test_b6_disabled_idle():
    d=Desk(); a=d.deliver("e1"); d.answer(d.one(),410); d.send(); d.engine.review_held(d.now_ms); d.send()
    assert not d.engine.state.queues and not d.engine.state.held
def test_b9_clean_cutoff_flag():
    d=Desk(); a=d.deliver("e1"); d.answer(d.one(),None,ErrorCode.OUR_SHUTDOWN); d.stop(); d.answer(d.one())
    assert d.transitions(a)[-1][1].attempt.after_crash
def test_b9_spilled_flag():
    d=Desk(policy=policy(endpoint_live_max=1)); ds=[d.deliver(f"e{i}") for i in range(3)]; d.send(); d.kill(); d.settle_everything()
    assert all(d.transitions(x)[-1][1].attempt.after_crash for x in ds)
def test_b21_order():
    d=Desk(endpoint(max_concurrency=1),policy=policy(endpoint_live_max=2)); ds=[d.deliver(f"e{i}") for i in range(5)]; d.take(); d.kill()
    s=d.engine.next_block(d.now_ms,10); 
    assert [x.live.offset for x in s]==[0]
def test_b3_return_order():
    d=Desk(); [d.deliver(f"e{i}") for i in range(3)]; s=d.send(); d.answer(s,None,ErrorCode.OUR_SHUTDOWN)
    assert [x.live.offset for x in d.send()]==[0,1,2]
def test_b41_gen():
    d=Desk(endpoint(generation=2)); a=d.deliver("e1"); d.answer(d.one(),410); d.view.by_id["ep_a"]=endpoint(generation=1); d.deliver("e2"); assert d.send()==[]
def test_b74_410_old_gen():
    d=Desk(); a=d.deliver("e1"); x=d.one(); d.view.by_id["ep_a"]=endpoint(generation=2); d.answer(x,410); d.deliver("e2"); assert len(d.send())==1
def test_b42_unknown_bounded():
    d=Desk(policy=policy(live_max=50,endpoint_live_max=10,refill_max=8)); [d.deliver(f"e{i}","ep_x",matched_at=5) for i in range(200)]
    d.send(); assert len(d.engine.state.live)<=50
def test_b64_rejected_large():
    d=Desk(); d.write(b"x"*(2<<20)); d.take(); (r,)=d.rejected(); assert len(r.value)<=512<<10
def test_b64_deep():
    d=Desk(); from schemas.wire.records import DELIVERY
    a=d.deliver("e1"); raw=d.log[-1][3]; 
    n=raw[2]&15; bad=raw[:2]+bytes([0xdc,0,n+1])+raw[3:]+b"\x91"*100000+b"\xc0"
    d.write(bad); d.take(); 
def test_b64_badutf8():
    d=Desk(); a=d.deliver("e1"); raw=d.log[-1][3]; i=raw.index(b"tenant"); d.write(raw[:i]+b"\xff\xfe"+raw[i+2:]); d.take(); assert d.rejected()
def test_b34_negative_record_time():
    d=Desk(); d.deliver("e1",recorded_at_ms=-5); d.take()
def test_b37_power_cut_dead_letter():
    from schemas import topics
    d=Desk(); a=d.deliver("e1"); d.engine.barrier(); x=d.one(); d.engine.barrier(); d.store.sync(); d.answer(x,404); rows=d.engine.take_publishes(); d.publish([r for r in rows if r.topic=="transitions"])
    d.kill(d.store.after_power_cut()); 
    for _ in range(5):
        d.settle_everything(404)
        d.later(100000)
    assert d.dead_letters()
def test_b28_pause_cancelled():
    d=Desk(); a=d.deliver("e1"); x=d.one(); d.cancel(a); d.answer(x,429,headers=(("retry-after","100"),)); d.deliver("e2"); assert d.send()==[]
def test_b29_actor():
    d=Desk(); a=d.deliver("e1"); x=d.one(); d.cancel(a); d.answer(x,200); assert d.transitions(a)[-1][1].actor==""
