"""The time step of a recurrent layer as compiled graphs, after `compile()`: one of the step, one of its derivative."""

from collections.abc import Callable, Sequence
from itertools import islice
from typing import Any
from weakref import WeakKeyDictionary

import torch
from torch import Tensor, nn

from hypernets.recurrent.kept_graphs import load_graph, path_of_graph
from hypernets.recurrent.recurrence import Operands, Plan, Step
from hypernets.recurrent.step_operations import LARGEST_FUSED_SUM


class CompiledStep(Step):
    """What `Step` does, compiled for the shapes and layouts of the tensors; later processes find it on disk."""

    _graphs: WeakKeyDictionary[nn.Module, dict[Any, Callable[[], Callable]]] = WeakKeyDictionary()

    def __init__(self, plan: Plan, operands: Operands) -> None:
        super().__init__(plan, operands)
        self.parameters = [laid_out_for_steps(parameter) for parameter in operands.parameters]
        self._functions: dict[str, Callable] = {}

    def rooms(self, d_products: Sequence[Tensor]) -> list[Tensor]:
        """See `Step`. They get an axis for the gates, without which compiled code would write one number at a time."""
        return [with_gates(room, self.plan.cell.state_sizes) for room in super().rooms(d_products)]

    def within(self, work: Callable[[], Any]) -> Any:
        """Do the work; the graphs take the parameters as arguments."""
        return work()

    def next_state(self, inputs: Sequence[Tensor], h: Tensor) -> Sequence[Tensor]:
        """See `Step`."""
        return self._run("next_state", [inputs, [h]])

    def derivative(self, *groups: Sequence[Tensor]) -> Sequence[Tensor]:
        """See `Step`."""
        return self._run("derivative", groups)

    def _run(self, kind: str, groups: Sequence[Sequence[Tensor]]) -> Sequence[Tensor]:
        if kind not in self._functions:  # all calls of one object are with tensors of the same shapes and layouts
            self._functions[kind] = self._graph(kind, groups)()
        return self._functions[kind](*self._tensors(groups))

    def _tensors(self, groups: Sequence[Sequence[Tensor]]) -> list[Tensor]:
        return [tensor for group in (self.parameters, *groups) for tensor in group]

    def _graph(self, kind: str, groups: Sequence[Sequence[Tensor]]) -> Callable[[], Callable]:
        """Return the function that waits for a graph and returns it; find the graph, or begin to compile it."""
        tensors = self._tensors(groups)
        layouts = tuple((t.shape, t.stride(), t.dtype, t.device) for t in tensors)
        known = self._graphs.setdefault(self.plan.cell, {})
        key = kind, self.plan.autocast, tuple(mask is None for mask in self.masks), layouts
        if key not in known:
            path = path_of_graph(self.plan.cell, tensors[0].device, key)
            graph = load_graph(path)
            if graph is not None:
                known[key] = lambda: graph
                return known[key]
            if kind == "next_state" and self.plan.differentiable:
                # The longer one first: its C++ is compiled while Python prepares this one.
                self._graph("derivative", self._groups_of_derivative(*groups[0], h=groups[1][0]))
            # Here, since importing it takes seconds.
            from hypernets.recurrent.step_compiler import compile_graph

            known[key] = compile_graph(self._function(kind, [len(group) for group in groups]), tensors, path)
        return known[key]

    def _groups_of_derivative(self, *inputs: Tensor, h: Tensor) -> list[Sequence[Tensor]]:
        """Tensors with the shapes and layouts of those that `derivative` will take after this step."""
        h_product, x_product, *others = inputs
        d_results = [h, torch.empty_like(h, dtype=self.plan.dtype), *others[: self.memory]]
        rooms = self.rooms([torch.empty_like(product) for product in (h_product, x_product)])
        return [self.keep(inputs), [x_product, *others[self.memory :]], d_results, rooms, self.parameters]

    def _function(self, kind: str, sizes: Sequence[int]) -> Callable:
        """Return the method of `Step` as a function of the parameters and then its arguments, one after another."""

        def function(*tensors: Tensor) -> Any:
            remaining = iter(tensors)
            step = Step.__new__(Step)
            vars(step).update(vars(self))
            step.parameters = [p.detach().requires_grad_() for p in islice(remaining, len(self.parameters))]
            groups = [list(islice(remaining, size)) for size in sizes]
            if kind == "next_state":
                groups[1] = groups[1][0]
            return tuple(step.within(lambda: getattr(step, kind)(*groups)))

        return function


def with_gates(room: Tensor, sizes: Sequence[int]) -> Tensor:
    """View the room for a product [B, rows] as [B, gates, units], for the largest of these sizes that divides rows."""
    rows = room.shape[1]
    return room.unflatten(-1, (-1, max((size for size in sizes if rows % size == 0), default=rows)))


def laid_out_for_steps(parameter: Tensor) -> Tensor:
    """Return the parameter, with its columns contiguous where a step reads them one by one."""
    is_narrow = parameter.dim() == 2 and parameter.shape[1] <= LARGEST_FUSED_SUM
    return parameter.t().contiguous().t() if is_narrow else parameter.contiguous()
