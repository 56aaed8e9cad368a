"""The fast path: how a call that was made before is repeated without torch's dispatcher and without argument checks.

The host needs several times as long as torch's convolutions to check arguments, enter an operator and look up its plan.
Small layers take the GPU less than that. So what the first call has found out is kept: `forward` keeps the plan of a
call by its arguments, `backward` keeps the plans of its gradients. `guards` asks what neither key says: whether anything
is active that must see the operators. If so, or if nothing is kept, the call takes the long way through `operators`,
which computes the same bits.
"""
