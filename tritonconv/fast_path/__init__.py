"""The fast path: how a call that equals an earlier one is repeated, without torch's dispatcher and argument checks.

The long way checks arguments, enters an operator and looks up its plan. That takes the host several times as long as a
convolution of torch, and longer than a small layer takes the GPU. So what the first call has found out is kept.
`forward` keeps the plan of a call by its arguments, and `backward` those of its gradients. `guards` asks what neither
key says: whether anything is active that must see the operators. If so, or if nothing is kept, the call goes the long
way, which computes the same bits.
"""
