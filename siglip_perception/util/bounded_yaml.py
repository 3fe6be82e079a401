"""YAML whose cost follows from its length: aliases and merges make no text larger than it is."""

from __future__ import annotations

from typing import Any

import yaml

# Keys of one mapping after its merges; each line of nested merges can double them.
_MAX_MERGED_KEYS = 100


class _Loader(yaml.SafeLoader):
    def flatten_mapping(self, node: yaml.MappingNode) -> None:
        super().flatten_mapping(node)
        if len(node.value) > _MAX_MERGED_KEYS and any(
            pair[0].start_mark.index < node.start_mark.index for pair in node.value
        ):
            raise yaml.constructor.ConstructorError(
                None, None, f"it merges more than {_MAX_MERGED_KEYS} keys", node.start_mark
            )


class _LoaderWithoutAliases(_Loader):
    def compose_node(self, parent: yaml.Node | None, index: Any) -> yaml.Node | None:
        if self.check_event(yaml.AliasEvent):
            raise yaml.composer.ComposerError(
                None, None, "it has an alias, such as *name", self.get_mark()
            )
        return super().compose_node(parent, index)


def load(text: str, *, aliases: bool = False) -> Any:
    """Load a YAML document; raise yaml.YAMLError for what is not one.

    aliases: allow them. A value may then contain itself, or hold one list many times: do not walk
    it to the end, nor print it.
    """
    try:
        return yaml.load(text, Loader=_Loader if aliases else _LoaderWithoutAliases)
    except (RecursionError, ValueError, TypeError, LookupError) as error:
        # Of values: numbers of thousands of digits, days that no month has, lists as keys.
        raise yaml.YAMLError(f"a value that cannot be read ({type(error).__name__})") from error
