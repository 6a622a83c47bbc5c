"""The texts that tests expect: those that reach a comparison, by a variable, a parameter or a table of cases."""

from __future__ import annotations

import ast
from collections import defaultdict
from collections.abc import Iterable, Iterator

from tests.support.kinds import each_third

Scope = tuple[ast.Module, ast.FunctionDef | None]
# What they are given is in their result, as with the tests' own classes; what other functions are given is input.
CONTAINERS = ("set", "frozenset", "list", "tuple", "dict", "sorted", "param")


class Expectations:
    """All texts that some comparison of the modules expects to be equal, contained or contain."""

    def __init__(self, modules: Iterable[ast.Module]) -> None:
        self.texts: set[str] = set()
        self._seen: set[ast.expr] = set()
        self._containers = set(CONTAINERS)
        self._locals: dict[ast.FunctionDef, list[tuple[str, ast.expr]]] = {}
        self._calls: dict[str, list[tuple[ast.Call, Scope]]] = defaultdict(list)
        self._constants: dict[str, list[tuple[ast.expr, Scope]]] = defaultdict(list)
        comparisons = []
        for module in modules:
            for name, value in _assignments(ast.iter_child_nodes(module)):
                self._constants[name].append((value, (module, None)))
            for node, scope in _scoped(module, (module, None)):
                if isinstance(node, ast.ClassDef):
                    self._containers.add(node.name)
                elif isinstance(node, ast.Call):
                    self._calls[_name(node.func)].append((node, scope))
                elif isinstance(node, ast.Compare) and not any(
                    isinstance(op, ast.NotEq | ast.NotIn) for op in node.ops
                ):
                    comparisons.append((node, scope))
        for comparison, scope in comparisons:
            self._follow(comparison, scope)

    def _follow(self, expression: ast.expr, scope: Scope) -> None:
        """Collect the texts of an expression and of what its names stand for."""
        if expression in self._seen:
            return
        self._seen.add(expression)
        for node in self._result(expression):
            if isinstance(node, ast.Constant) and isinstance(node.value, str):
                self.texts.add(node.value)
            elif isinstance(node, ast.Name):
                for value, where in self._values(node.id, scope):
                    self._follow(value, where)

    def _result(self, expression: ast.AST) -> Iterator[ast.AST]:
        """Yield the parts of an expression, but neither the input of calls nor what is taken off."""
        yield expression
        parts = list(ast.iter_child_nodes(expression))
        if isinstance(expression, ast.Call) and _name(expression.func) not in self._containers:
            parts = [expression.func]
        elif isinstance(expression, ast.BinOp) and isinstance(expression.op, ast.Sub):
            parts = [expression.left]
        for part in parts:
            yield from self._result(part)

    def _local(self, function: ast.FunctionDef) -> list[tuple[str, ast.expr]]:
        if function not in self._locals:
            self._locals[function] = list(_assignments(ast.walk(function)))
        return self._locals[function]

    def _values(self, name: str, scope: Scope) -> Iterator[tuple[ast.expr, Scope]]:
        function = scope[1]
        local = self._local(function) if function else []
        if function and name in (names := [argument.arg for argument in function.args.args]):
            yield from self._cases(name, function, scope[0])
            position = names.index(name) - ("self" in names)
            for call, where in self._calls[function.name]:
                yield from ((value, where) for value in call.args[position : position + 1])
                yield from ((keyword.value, where) for keyword in call.keywords if keyword.arg == name)
        elif any(name == target for target, _ in local):
            yield from ((value, scope) for target, value in local if name == target)
        else:
            yield from self._constants[name]

    def _cases(self, name: str, function: ast.FunctionDef, module: ast.Module) -> Iterator[tuple[ast.expr, Scope]]:
        """Yield the values that parametrize gives to an argument."""
        for decorator in function.decorator_list:
            if not isinstance(decorator, ast.Call) or _name(decorator.func) != "parametrize":
                continue
            names, table = decorator.args
            if isinstance(table, ast.Call) and _name(table.func) == each_third.__name__:
                (table,) = table.args
            wanted = ast.literal_eval(names)
            tables = self._constants[table.id] if isinstance(table, ast.Name) else [(table, (module, None))]
            if wanted == name:
                yield from tables
            elif name in wanted:
                for cases, scope in tables:
                    for case in getattr(cases, "elts", ()):
                        values = case.args if isinstance(case, ast.Call) else getattr(case, "elts", ())
                        yield from ((value, scope) for value in values[wanted.index(name) : wanted.index(name) + 1])


def _name(function: ast.expr) -> str:
    return getattr(function, "id", getattr(function, "attr", ""))


def _scoped(node: ast.AST, scope: Scope) -> Iterator[tuple[ast.AST, Scope]]:
    """Yield all nodes with the outermost function around each."""
    for child in ast.iter_child_nodes(node):
        inside = (scope[0], child) if isinstance(child, ast.FunctionDef) else scope
        yield child, inside
        yield from _scoped(child, inside)


def _assignments(nodes: Iterable[ast.AST]) -> Iterator[tuple[str, ast.expr]]:
    """Yield the names that are assigned, each with the expression."""
    for node in nodes:
        if isinstance(node, ast.Assign):
            targets, value = node.targets, node.value
        elif isinstance(node, ast.AnnAssign) and node.value:
            targets, value = [node.target], node.value
        elif isinstance(node, ast.For | ast.comprehension):
            targets, value = [node.target], node.iter
        else:
            continue
        yield from ((name.id, value) for target in targets for name in ast.walk(target) if isinstance(name, ast.Name))
