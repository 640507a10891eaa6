from tests.lightning_modules.conftest import batches, fit, make_grpo

__all__ = ["batches", "fit", "make_grpo"]
