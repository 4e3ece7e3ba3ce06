"""Opens this model with the code of the package orthus-kit."""

try:
    from orthus_core import (  # noqa: F401
        OrthusConfig,
        OrthusForConditionalGeneration,
        OrthusProcessor,
    )
except ImportError as error:
    raise ImportError(
        "this model is opened by the package orthus-kit, which is not installed here or is too "
        "old: pip install -U orthus-kit"
    ) from error
