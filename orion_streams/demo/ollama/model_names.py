"""Model names: `model`, `model:tag`, `namespace/model:tag`, `host/namespace/model:tag`."""

import re

import msgspec

_PART = re.compile(r"\w[\w.-]{0,79}", re.ASCII)
_NAMESPACE = re.compile(r"\w[\w-]{0,79}", re.ASCII)
_HOST = re.compile(r"\w[\w.:-]{0,349}", re.ASCII)
_DEFAULT_HOST = "registry.ollama.ai"
_DEFAULT_NAMESPACE = "library"


class ModelName(msgspec.Struct, frozen=True):
    """A name with its defaults filled in: no tag means `latest`."""

    host: str
    namespace: str
    model: str
    tag: str

    @classmethod
    def parse(cls, text: str) -> "ModelName":
        """Parse any text; `valid` tells whether it is a name."""
        name, tag = text.strip(), "latest"
        if name.rfind(":") > name.rfind("/"):
            name, _, tag = name.rpartition(":")
        *before, model = name.rsplit("/", 2)
        namespace = before.pop() if before else _DEFAULT_NAMESPACE
        host = before.pop().rpartition("://")[2] if before else _DEFAULT_HOST
        return cls(host=host, namespace=namespace, model=model, tag=tag)

    @property
    def valid(self) -> bool:
        return all(
            pattern.fullmatch(part)
            for pattern, part in (
                (_HOST, self.host),
                (_NAMESPACE, self.namespace),
                (_PART, self.model),
                (_PART, self.tag),
            )
        )

    @property
    def key(self) -> tuple[str, str, str, str]:
        """Return the key of a model, which ignores case."""
        return self.host.lower(), self.namespace.lower(), self.model.lower(), self.tag.lower()

    @property
    def shortest(self) -> str:
        """Return the name as listed: without default host and namespace, with the tag."""
        if self.host != _DEFAULT_HOST:
            return f"{self.host}/{self.namespaced}"
        return f"{self.model}:{self.tag}" if self.namespace == _DEFAULT_NAMESPACE else self.namespaced

    @property
    def namespaced(self) -> str:
        return f"{self.namespace}/{self.model}:{self.tag}"
