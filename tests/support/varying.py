"""The table of named problems whose weight varies: over samples, over positions, or both.

They have few positions, because kernels run a program for each position and the interpreter is slow.
"""

from dataclasses import replace
from itertools import cycle

from tests.support.cases import Case


def in_turn(*cases: Case) -> list[Case]:
    """Return the cases with dtypes in turn: the first gets float32, then bfloat16, float16, float32 and so on."""
    return [replace(case, dtype=dtype) for case, dtype in zip(cases, cycle(("float32", "bfloat16", "float16")))]


VARYING = in_turn(
    Case("local", padding=1, size=(2, 3), varies="p q", bias_varies="p q"),
    Case("local_shared_bias", 3, (3, 5), (3, 3), (2, 2), varies="p q"),
    Case("local_unbatched", None, (5, 3), (2, 4), (2, 3), varies="p q", bias_varies="p q"),
    Case("local_many_images", 18, (2, 5), (2, 3), (2, 2), varies="p q", bias_varies="p q"),
    Case("local_empty_batch", 0, (2, 5), (2, 3), (2, 2), varies="p q", bias_varies="p q"),
    Case("local_pointwise", 9, (17, 19), (2, 2), (1, 1), varies="p q", bias=False),
    Case("local_strided", 2, (4, 3), (5, 4), (2, 3), (2, 3), 1, varies="p q", bias_varies="p q"),
    Case("local_stride_beyond_kernel", 1, (4, 3), (5, 4), (1, 2), 3, varies="p q", bias_varies="p q"),
    Case("local_dilated", 2, (4, 3), (3, 5), (2, 3), (1, 2), (1, 2), (3, 2), varies="p q", bias_varies="p q"),
    Case("local_dilation_shares_factor", 1, (2, 3), (5, 4), (2, 2), 2, 1, 2, varies="p q", bias_varies="p q"),
    Case("local_beyond_the_image", 2, (4, 3), (1, 2), (1, 2), 2, 3, varies="p q", bias_varies="p q"),
    Case("local_grouped", 2, (6, 9), (2, 3), (1, 2), groups=3, varies="p q", bias_varies="p q"),
    Case("local_depthwise", 1, (5, 5), (1, 3), (1, 2), groups=5, varies="p q", bias_varies="p q"),
    Case("local_same", 1, (2, 2), (2, 3), (2, 3), padding="same", varies="p q", bias_varies="p q"),
    Case("local_aligned", 9, (16, 24), (2, 3), (2, 2), x="channels_last", weight="channels_last", varies="p q"),
    Case("local_aligned_grouped", 1, (32, 16), (3, 2), (2, 2), groups=2, weight="channels_last", varies="p q"),
    Case("local_aligned_by_two", 5, (6, 10), (2, 2), (2, 1), x="channels_last", varies="p q", bias_varies="p q"),
    Case("local_many_channels", 2, (70, 36), (2, 2), (2, 2), varies="p q", bias_varies="p q"),
    Case("local_sliced", 2, (4, 3), (3, 3), (2, 2), x="sliced", weight="sliced", varies="p q", bias_varies="p q"),
    Case("local_expanded", 2, (4, 3), (3, 3), (2, 2), x="expanded", weight="expanded", varies="p q"),
    Case("local_offset", 2, (8, 8), (3, 3), (2, 2), x="offset", weight="offset", varies="p q", bias_varies="p q"),
    Case("local_transposed_bias", 1, (2, 3), (3, 4), (2, 2), bias_layout="transposed", varies="p q", bias_varies="p q"),
    Case("per_sample", varies="b", bias_varies="b"),
    Case("per_sample_shared_bias", 3, kernel=(2, 4), padding=(0, 1), stride=(1, 2), varies="b"),
    Case("per_sample_strided", 2, (6, 9), (6, 5), (3, 2), (2, 1), 2, (1, 2), 3, varies="b", bias_varies="b"),
    Case("per_sample_aligned", 2, (16, 24), (5, 4), x="channels_last", weight="channels_last", varies="b"),
    Case("per_sample_of_none", 0, (2, 3), varies="b", bias_varies="b"),
    Case("per_sample_pixel", 3, (4, 5), (1, 1), (1, 1), varies="b", bias_varies="b"),
    Case("dynamic", 2, (3, 5), (3, 3), (2, 2), varies="b p q", bias_varies="b p q"),
    Case("dynamic_shared_bias", 1, (4, 4), (2, 4), (2, 3), (1, 2), (1, 1), groups=2, varies="b p q"),
    Case("dynamic_bias_of_samples", 2, (3, 17), (2, 3), (2, 2), varies="b p q", bias_varies="b"),
    Case("dynamic_bias_of_positions", 2, (17, 3), (2, 3), (2, 2), varies="b p q", bias_varies="p q"),
    Case("dynamic_aligned", 2, (16, 8), (2, 2), (1, 2), x="channels_last", weight="channels_last", varies="b p q"),
)
# The local cases that are used transposed, too. Transposed, the images get larger; in these they stay small.
SMALL = ("", "_shared_bias", "_unbatched", "_many_images", "_empty_batch", "_pointwise", "_grouped", "_aligned")
VARYING_TRANSPOSED = in_turn(
    *(
        replace(case, transposed=True)
        for case in (
            *(case for case in VARYING if case.name.removeprefix("local") in SMALL),
            Case("local_output_padding", 2, (4, 3), (2, 1), (2, 3), 2, 0, 1, 1, 1, varies="p q", bias_varies="p q"),
            Case("local_strided", 2, (4, 3), (2, 2), (2, 3), (2, 3), 1, varies="p q", bias_varies="p q"),
            Case("local_stride_beyond_kernel", 1, (4, 3), (2, 2), (1, 2), 3, varies="p q", bias_varies="p q"),
            Case("local_dilated", 2, (4, 3), (2, 2), (2, 2), (1, 2), (1, 0), (3, 2), varies="p q", bias_varies="p q"),
            Case("local_dilation_shares_factor", 1, (2, 3), (2, 3), (2, 2), 2, 1, 2, varies="p q", bias_varies="p q"),
            Case("local_cropped", 1, (3, 2), (3, 3), (3, 2), (1, 2), 1, varies="p q", bias_varies="p q"),
        )
    )
)
