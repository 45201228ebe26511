"""proto"""
from __future__ import annotations
import numpy as np
from demos.experts.arm import Arm, rotation_error, tool_rotation, JOINTS
from demos.experts.kitchen_legs import Kitchen, Leg, legs, OPEN, chain
START=np.array([0.148,-1.72,1.844,-2.477,0.26,0.713,1.595])

LOOK = 0.05
ROT = 3.0
PG=2.0; QMAX=np.array([.6]*4+[.75]*3)
class KitchenExpert:
    def __init__(self, seed=0, verbose=False):
        self.rng=np.random.default_rng(seed); self.verbose=verbose
    def reset(self, env):
        sim=env.unwrapped
        self.arm=Arm(sim.model); self.kitchen=Kitchen(sim.model)
        self.legs=legs(self.kitchen,self.rng)
        self.i=0; self.t=0; self.log=[]
        self.post=chain(self.kitchen,self.arm,START)
        self.pace=self.rng.uniform(.9,1.1)
        self._enter(sim)
    def _enter(self,sim,back=False):
        q=sim.data.qpos[:JOINTS]; p,R=self.arm.place(q)
        leg=self.legs[self.i]
        way=leg.points(sim.data.qpos)
        pts=[p]; Rs=[R]; qs=[q.copy()]
        post=list(self.post[self.i])
        if back:
            pts.append(p-.14*R[:,2]); Rs.append(R); qs.append(q.copy()); k=2 if self.i==0 else 1; way=way[-k:]; post=post[-k:]
        self.qs=np.array(qs+post); self.best=0.; self.stall=0
        self.pts=np.array(pts+[x[0] for x in way]); self.Rs=Rs+[tool_rotation(x[1],x[2]) for x in way]
        self.s=0.; self.cum=np.r_[0,np.cumsum(np.linalg.norm(np.diff(self.pts,axis=0),axis=1))]; self.wait=0
        self.log.append((self.t,leg.name))
        if self.verbose: print(self.t,leg.name,"tip",p.round(3),"door %.2f kettle %s light %.2f slide %.2f"%(sim.data.qpos[22],sim.data.qpos[23:26].round(2),sim.data.qpos[17],sim.data.qpos[19]))
    def at(self,s):
        s=np.clip(s,0,self.cum[-1]); k=min(np.searchsorted(self.cum,s,side="right")-1,len(self.pts)-2)
        f=(s-self.cum[k])/max(self.cum[k+1]-self.cum[k],1e-6)
        p=self.pts[k]+f*(self.pts[k+1]-self.pts[k])
        self.qref=self.qs[k]+f*(self.qs[k+1]-self.qs[k]); R=self.Rs[k]; w=rotation_error(self.Rs[k+1],R)
        from scipy.spatial.transform import Rotation as Rot
        return p, Rot.from_rotvec(f*w).as_matrix()@R
    def act(self, env):
        sim=env.unwrapped; qpos=sim.data.qpos
        leg=self.legs[self.i]
        q=qpos[:JOINTS].copy(); p,R=self.arm.place(q)
        # progress: nearest point ahead
        cand=np.linspace(self.s,min(self.s+.06,self.cum[-1]),13)
        dist=[np.linalg.norm(self.at(c)[0]-p) for c in cand]; self.s=float(cand[int(np.argmin(dist))])
        over=self.cum[-1]-self.s<.015 and np.linalg.norm(self.pts[-1]-p)<.03
        adv=None
        if leg.done is not None:
            if leg.done(qpos): adv=1
            else:
                self.wait+=self.cum[-1]-self.s<.02
                if self.wait>8: adv=1 if leg.enough(qpos) else -1
        elif over: adv=1
        if self.s>self.best+.004: self.best=self.s; self.stall=0
        else: self.stall+=1
        if adv is None and self.stall>25 and self.i<9: adv=0
        if adv is not None:
            if self.i+adv<len(self.legs): self.i+=adv; self._enter(sim,adv<1); leg=self.legs[self.i]
        tp,tR=self.at(self.s+LOOK)
        e=tp-p; n=np.linalg.norm(e)
        v=e/max(n,LOOK)*leg.speed*self.pace
        w=rotation_error(tR,R)*ROT; wn=np.linalg.norm(w); w*=min(1,.8/max(wn,1e-9))
        posture=PG*(self.qref-q)
        dq=self.arm.joint_velocity(q,v,w,posture); dq/=max(1,(np.abs(dq)/QMAX).max())
        a=np.r_[np.clip(self.arm.action(q,dq),-.95,.95),leg.fingers,leg.fingers]
        self.t+=1
        self.last=dict(v=v,dq=dq,n=n)
        return a
if __name__=="__main__":
    import time,sys
    from envs.make import make
    np.set_printoptions(precision=2,suppress=True,linewidth=160)
    env=make("kitchen","state")
    for seed in range(int(sys.argv[1]),int(sys.argv[2])):
        env.reset(seed=seed); ex=KitchenExpert(seed,verbose=True); ex.reset(env); t0=time.time()
        A=[]; st=[]; done_at={}
        for t in range(280):
            a=ex.act(env); A.append(a); o,r,te,tr,info=env.step(a.astype(np.float32)); st.append(env.unwrapped.get_state())
            for n,dn in zip(env.unwrapped.subtasks,info["tasks_done"]):
                if dn and n not in done_at: done_at[n]=t+1
        A=np.array(A); print(seed,info["score"],done_at,"maxabs",np.abs(A).max(0),"rms diff",np.abs(np.diff(A,axis=0)).mean(0),"%.0f steps/s"%(280/(time.time()-t0)))
        np.save(f"/tmp/expert/run{seed}.npy",np.array(st))
