"""The operators as torch sees them: `library` declares, `call` computes, `autograd` and `vmap` transform."""

from tritonconv.operators import call as _call  # noqa: F401 - registers what computes
from tritonconv.operators import vmap as _vmap  # noqa: F401 - registers the rules of vmap
