"""Every error that augbench raises on purpose.

`ConfigError` and `DataError` are the user's to mend: one sentence, exit code 2, before any work
starts.  A `DiskError` ends a command with exit code 1, and what is finished is kept.  The others
say that a method broke a rule of the benchmark: they fail the run, not the suite.
"""


class AugbenchError(Exception):
    """Base class of the errors below."""


class ConfigError(AugbenchError):
    """An option, a suite file or a method specification is not valid."""


class DataError(AugbenchError):
    """A data set is missing, unreadable or malformed."""


class RecordError(AugbenchError):
    """A record on disk is torn, tampered with, or of another schema."""


class Damaged(RecordError):
    """A file among a suite's records is not what was written there, or never was one of them."""


class DiskError(AugbenchError):
    """A disk takes no more: it is full, for reading only, or somebody else's."""


class BudgetExhausted(AugbenchError):
    """The next metered block does not fit into what is left of a budget or slice.

    Attributes:
        scope: The fence that was hit; a `Session.slice` absorbs only its own.
    """

    def __init__(self, message: str, scope: object = None) -> None:
        super().__init__(message)
        self.scope = scope


class UnmeteredCompute(AugbenchError):
    """A network was called where nobody counts, or a block did other work than billed."""


class LedgerTampered(AugbenchError):
    """The ledger's items no longer add up to its total."""


class PlanError(AugbenchError):
    """A method planned nothing, or more steps than its budget pays for."""


class Diverged(AugbenchError):
    """Rewards, or what the final weights predict, are not finite numbers."""
