"""Files of tensors."""

import os

import pytest
import torch

from workbench import tensor_files


@pytest.mark.parametrize(("mask", "mode"), [(0o022, 0o644), (0o027, 0o640), (0o077, 0o600)])
def test_others_may_read_a_file_as_the_umask_says(tmp_path, mask, mode):
    path = tmp_path / "x.safetensors"
    before = os.umask(mask)
    try:
        tensor_files.save({"x": torch.arange(3)}, path, {})
    finally:
        os.umask(before)

    assert path.stat().st_mode & 0o777 == mode
    assert tensor_files.load(path, "")[0]["x"].tolist() == [0, 1, 2]
