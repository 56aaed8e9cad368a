"""The operators as torch sees them: `library` declares, `compute` computes what `decision` says, `autograd` and `vmap`
transform.
"""

from tritonconv.operators import compute as _compute  # noqa: F401 - registers what computes
from tritonconv.operators import vmap as _vmap  # noqa: F401 - registers the rules of vmap
