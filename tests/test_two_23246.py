import time
import pytest

pytestmark = pytest.mark.gpu


def test_one():
    time.sleep(0.2)


def test_two():
    time.sleep(0.2)
