"""A small notation for ONNX graphs: values with operators, weights that stay in the checkpoint's file."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
import onnx
from numpy.typing import ArrayLike
from onnx import TensorProto, helper, numpy_helper

OPSET, IR = 20, 10
KINDS = {
    np.dtype(np.float32): TensorProto.FLOAT, np.dtype(np.float64): TensorProto.DOUBLE,
    np.dtype(np.int64): TensorProto.INT64, np.dtype(np.int32): TensorProto.INT32, np.dtype(bool): TensorProto.BOOL,
    np.dtype(np.int8): TensorProto.INT8, np.dtype(np.uint8): TensorProto.UINT8,
}  # fmt: skip
RUNTIME = "com.microsoft"  # ONNX Runtime's own operators
COMPARISONS = ("Equal", "Less", "Greater", "LessOrEqual", "And", "Or", "Not")


def _elementwise(kind: str) -> Callable[[Value, Value | ArrayLike], Value]:
    """A method of `Value`: a node of this kind, of the value and another one, or a number."""
    return lambda self, other: self.graph.op(kind, self, self.graph.value(other, self.type))


class Value:
    """What a node of a graph gives. Numbers beside it become constants of its type."""

    def __init__(self, graph: Graph, name: str, type: Any) -> None:
        self.graph, self.name, self.type = graph, name, np.dtype(type)

    __add__ = _elementwise("Add")
    __sub__ = _elementwise("Sub")
    __mul__ = _elementwise("Mul")
    __truediv__ = _elementwise("Div")
    __floordiv__ = _elementwise("Div")  # of integers that are not negative
    __lt__ = _elementwise("Less")
    __le__ = _elementwise("LessOrEqual")
    __gt__ = _elementwise("Greater")
    equals = _elementwise("Equal")
    __and__ = _elementwise("And")
    __or__ = _elementwise("Or")

    def __invert__(self) -> Value:
        return self.graph.op("Not", self)

    def to(self, type: Any) -> Value:
        """The same numbers in another type."""
        kind = np.dtype(type)
        return self if kind == self.type else self.graph.op("Cast", self, result=kind, to=KINDS[kind])

    def size(self, axis: int) -> Value:
        """(1,) int64, the size of an axis."""
        return self.graph.op("Shape", self, result=np.int64, start=axis, end=axis + 1)

    def cut(self, start: Value | int, end: Value | int, axis: int) -> Value:
        """start .. end of an axis."""
        places = (self.graph.value([each] if isinstance(each, int) else each, np.int64) for each in (start, end))
        return self.graph.op("Slice", self, *places, self.graph.value([axis], np.int64))

    def reshape(self, *shape: Value | int) -> Value:
        return self.graph.op("Reshape", self, self.graph.shape(*shape))

    def expand(self, *shape: Value | int) -> Value:
        return self.graph.op("Expand", self, self.graph.shape(*shape))

    def over(self, kind: str, axis: int, *, keep: bool = False) -> Value:
        """Reduces an axis: Sum, Max, Min or Mean."""
        return self.graph.op(f"Reduce{kind}", self, self.graph.value([axis], np.int64), keepdims=int(keep))

    def any(self, axis: int) -> Value:
        return self.to(np.int32).over("Max", axis) > 0

    def unsqueeze(self, *axes: int) -> Value:
        return self.graph.op("Unsqueeze", self, self.graph.value(axes, np.int64))

    def squeeze(self, *axes: int) -> Value:
        return self.graph.op("Squeeze", self, self.graph.value(axes, np.int64))

    def gather(self, places: Value, axis: int = 0) -> Value:
        """Whole slices at these places of an axis."""
        return self.graph.op("Gather", self, places, axis=axis)

    def pick(self, places: Value, axis: int = 1) -> Value:
        """Single elements, as `gather` of torch."""
        return self.graph.op("GatherElements", self, places, axis=axis)

    def transpose(self, *axes: int) -> Value:
        return self.graph.op("Transpose", self, perm=axes)

    def put(self, places: Value, values: Value, axis: int = 1) -> Value:
        """Single elements replaced."""
        return self.graph.op("ScatterElements", self, places, values, axis=axis)

    def top(self, count: Value | int, axis: int = 1, *, largest: bool = True) -> tuple[Value, Value]:
        """The largest or smallest of an axis in order, the first of equal ones first, and their places."""
        number = self.graph.value([count] if isinstance(count, int) else count, np.int64)
        values, places = self.graph.op(
            "TopK", self, number, results=[self.type, np.int64], axis=axis, largest=int(largest)
        )
        return values, places


class Graph:
    """Collects nodes, weights and constants. Inside a `loop`, nodes belong to its body."""

    def __init__(self) -> None:
        self.nodes: list[onnx.NodeProto] = []
        self.inputs: list[onnx.ValueInfoProto] = []
        self.initializers: dict[str, onnx.TensorProto] = {}
        self.outputs: Mapping[str, Value] = {}
        self.known: dict[Any, Value] = {}
        self.count = 0

    def _name(self, kind: str) -> str:
        self.count += 1
        return f"{kind}_{self.count}"

    def op(
        self, kind: str, *inputs: Value | None, results: Sequence[Any] | None = None, result: Any = None,
        domain: str = "", **attributes: Any,
    ) -> Any:  # fmt: skip
        """A node. result: type of what it gives, by default that of its first input; results: of several."""
        usual = bool if kind in COMPARISONS else inputs[0].type if inputs and inputs[0] is not None else None
        types = results if results is not None else [result or usual]
        name = self._name(kind)
        names = [name if results is None else f"{name}_{index}" for index in range(len(types))]
        given = ["" if each is None else each.name for each in inputs]
        self.nodes.append(helper.make_node(kind, given, names, name=name, domain=domain, **attributes))
        made = [Value(self, name, type) for name, type in zip(names, types, strict=True)]
        return made if results is not None else made[0]

    def value(self, what: Value | ArrayLike, type: Any) -> Value:
        """A value as it is, anything else as a constant of this type."""
        if isinstance(what, Value):
            return what
        array = np.asarray(what, dtype=type)
        key = (array.dtype, array.shape, array.tobytes())
        if key not in self.known:
            name = self._name("constant")
            self.initializers[name] = numpy_helper.from_array(array, name)
            self.known[key] = Value(self, name, array.dtype)
        return self.known[key]

    def ints(self, what: Value | ArrayLike) -> Value:
        return self.value(what, np.int64)

    def floats(self, what: Value | ArrayLike) -> Value:
        return self.value(what, np.float32)

    def shape(self, *sizes: Value | int) -> Value:
        """A shape of numbers and of values (1,)."""
        numbers = [size for size in sizes if isinstance(size, int)]
        if len(numbers) == len(sizes):
            return self.ints(numbers)
        return self.concat(*(self.ints([size] if isinstance(size, int) else size) for size in sizes), axis=0)

    def concat(self, *values: Value, axis: int) -> Value:
        return self.op("Concat", *values, axis=axis)

    def where(self, condition: Value, yes: Value | ArrayLike, no: Value | ArrayLike) -> Value:
        """Elementwise; a number takes the type of the other, int64 or float32 if both are numbers."""
        kind = next((each.type for each in (yes, no) if isinstance(each, Value)), None)
        kind = kind or np.dtype(np.float32 if isinstance(yes, float) else np.int64)
        return self.op("Where", condition, self.value(yes, kind), self.value(no, kind), result=kind)

    def range(self, end: Value) -> Value:
        """0 .. end - 1 for `end` (1,)."""
        return self.op("Range", self.ints(0), end.squeeze(0), self.ints(1))

    def weight(self, name: str, shape: Sequence[int], type: Any = np.float32) -> Value:
        """A weight that is given when the graph is loaded."""
        if name not in self.initializers:
            tensor = TensorProto(name=name, data_type=KINDS[np.dtype(type)], dims=shape)
            tensor.data_location = TensorProto.EXTERNAL
            tensor.external_data.add(key="location", value="weights")
            self.initializers[name] = tensor
        return Value(self, name, type)

    def input(self, name: str, type: Any, shape: Sequence[str | int], default: ArrayLike | None = None) -> Value:
        """default: its value where none is given."""
        if default is not None:
            self.initializers[name] = numpy_helper.from_array(np.asarray(default, dtype=type), name)
        self.inputs.append(helper.make_tensor_value_info(name, KINDS[np.dtype(type)], shape))
        return Value(self, name, type)

    def loop(self, most: Value, state: Mapping[str, Value], body: Body) -> tuple[dict[str, Value], dict[str, Value]]:
        """Repeats `body` at most `most` (scalar) times.

        body(turn, state) -> whether to go on, the new state, and what is collected of each turn. Returns the last state
        and the collected values, with a first axis of turns.
        """
        outside, self.nodes, inputs, self.inputs = self.nodes, [], self.inputs, []
        turn = self.input(self._name("turn"), np.int64, [])
        self.input(self._name("going"), bool, [])
        names = {name: self._name(name) for name in state}
        for name, value in state.items():
            self.inputs.append(helper.make_tensor_value_info(names[name], KINDS[value.type], None))
        going, new, collected = body(turn, {name: Value(self, names[name], state[name].type) for name in state})
        given = [going, *(new[name] for name in state), *collected.values()]
        outputs = [self._named(value, self._name("out")) for value in given]
        graph = helper.make_graph(self.nodes, "body", self.inputs, outputs)
        self.nodes, self.inputs = outside, inputs
        types = [value.type for value in given[1:]]
        made = self.op("Loop", most, self.value(True, bool), *state.values(), results=types, body=graph)
        return dict(zip(state, made, strict=False)), dict(zip(collected, made[len(state) :], strict=True))

    def branch(
        self, condition: Value, yes: Callable[[], Sequence[Value]], no: Callable[[], Sequence[Value]]
    ) -> list[Value]:
        """What `yes` gives where the condition () holds, else what `no` gives, of the same types."""
        graphs, types = dict[str, Any](), list[Any]()
        for name, body in (("then_branch", yes), ("else_branch", no)):
            outside, self.nodes = self.nodes, []
            given = body()
            graphs[name] = helper.make_graph(
                self.nodes, name, [], [self._named(each, self._name("out")) for each in given]
            )
            self.nodes, types = outside, [value.type for value in given]
        made: list[Value] = self.op("If", condition, results=types, **graphs)
        return made

    def _named(self, value: Value, name: str) -> onnx.ValueInfoProto:
        """A value as an output."""
        self.nodes.append(helper.make_node("Identity", [value.name], [name]))
        return helper.make_tensor_value_info(name, KINDS[value.type], None)

    @property
    def weights(self) -> list[str]:
        """The names of the weights that it reads."""
        return [name for name, each in self.initializers.items() if each.data_location == TensorProto.EXTERNAL]

    def place(self, file: str, places: Mapping[str, tuple[int, int]]) -> None:
        """Says where each weight is for whoever loads the graph: in a file beside it, at which bytes (start, end)."""
        for name in self.weights:
            start, end = places[name]
            del self.initializers[name].external_data[:]
            for key, value in {"location": file, "offset": start, "length": end - start}.items():
                self.initializers[name].external_data.add(key=key, value=str(value))

    def model(self) -> bytes:
        """The graph as a file has it, without the weights."""
        given = [self._named(value, name) for name, value in self.outputs.items()]
        graph = helper.make_graph(self.nodes, "janus", self.inputs, given, list(self.initializers.values()))
        opsets = [helper.make_opsetid("", OPSET), helper.make_opsetid(RUNTIME, 1)]
        made: bytes = helper.make_model(graph, opset_imports=opsets, ir_version=IR).SerializeToString()
        return made


State = dict[str, Value]
Body = Callable[[Value, State], tuple[Value, State, State]]
