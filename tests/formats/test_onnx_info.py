# SPDX-License-Identifier: Apache-2.0
"""What inspect says of ONNX files."""

from __future__ import annotations

import pytest

from dnnlib.util import UserError
from gantransfer.formats import onnx_info
from gantransfer.importers import load_any

pytest.importorskip("onnx", reason="needs onnx (extra `export`)")


def test_inspect_reads_files_of_others_and_refuses_what_is_none(tmp_path, call):
    import onnx

    x = onnx.helper.make_tensor_value_info("x\n", onnx.TensorProto.FLOAT, [None, 3])
    y = onnx.helper.make_tensor_value_info("y", onnx.TensorProto.FLOAT, [None, 3])
    graph = onnx.helper.make_graph([onnx.helper.make_node("Relu", ["x\n"], ["y"])], "g", [x], [y])
    onnx.save_model(onnx.helper.make_model(graph, producer_name="somebody",
                                           opset_imports=[onnx.helper.make_opsetid("", 18)], ir_version=9),
                    tmp_path / "other.onnx")
    out = call("inspect", tmp_path / "other.onnx").stdout
    assert "made by     somebody" in out and "Relu 1" in out and r"x\n: float32 [0, 3]" in out
    (tmp_path / "bad.onnx").write_bytes(b"no protobuf")
    graph.input[0].type.tensor_type.shape.dim[0].dim_param = "rows"
    named = onnx.helper.make_model(graph, opset_imports=[onnx.helper.make_opsetid("", 18)], ir_version=9)
    (tmp_path / "texts.onnx").write_bytes(named.SerializeToString().replace(b"rows", b"\xff\xfe\xff\xfe"))
    with pytest.raises(UserError, match="texts.onnx cannot be read as ONNX"):
        onnx_info.describe(tmp_path / "texts.onnx")
    err = call("inspect", tmp_path / "bad.onnx", check=2).stderr
    assert "bad.onnx cannot be read as ONNX" in err and err.count("\n") == 1
    with pytest.raises(UserError, match="not read back; gantransfer inspect"):
        load_any(tmp_path / "other.onnx")
