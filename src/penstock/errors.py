"""Every error that Penstock raises for a reason that its user can mend.

    PenstockError
    ├── InvalidArgumentError      a value that was passed in cannot be right
    │   └── ConfigurationError    a setting in a file, a flag or the environment
    ├── AlreadyExistsError        a name that is taken
    ├── NotFoundError             a file, a model, a version, a checkpoint that is not there
    ├── UnavailableError          right request, wrong moment: loading, draining
    │   └── OverloadedError       ... too much work: no room to wait, or waited too long
    ├── OperationError            right request, tried, and failed; the message is fit for strangers
    ├── UnsupportedError          understood, but not something this build or model can do
    ├── FlaggedError              images were flagged as adversarial, and the model refuses such requests
    ├── UnauthenticatedError      no token, or one that nobody issued
    ├── ForbiddenError            a token without the right that is needed
    ├── BundleError               a bundle that is damaged, half-written, or of another schema
    ├── SurgeryError              a network into which gates cannot be put
    ├── VerificationError         an exported graph that does not answer as the network does
    └── NotReadyError             a call that needs another call first
        ├── NotFittedError        ... ``fit``
        └── NotCalibratedError    ... ``calibrate``

A message says what was wrong, the value, and what to do. Nothing here knows of gRPC: the service holds the
one table that maps these types to status codes.
"""


class PenstockError(Exception):
    """Base of all errors a caller may want to catch at once."""


class InvalidArgumentError(PenstockError, ValueError):
    """A value that was passed in cannot be right."""


class ConfigurationError(InvalidArgumentError):
    """A setting in a file, on the command line or in the environment cannot be right."""


class AlreadyExistsError(PenstockError):
    """Something of that name exists already."""


class NotFoundError(PenstockError):
    """Something named does not exist."""


class UnavailableError(PenstockError):
    """The request is right but cannot be served at this moment."""


class OverloadedError(UnavailableError):
    """There is too much work: the request has no room to wait, or has waited too long."""


class OperationError(PenstockError):
    """What was asked for was tried and failed; the message names no files, so that it may go to a client."""


class UnsupportedError(PenstockError):
    """The request is understood but this build, model or file cannot do it."""


class FlaggedError(PenstockError):
    """Images were flagged as adversarial, and their model refuses requests with such images."""


class UnauthenticatedError(PenstockError):
    """Nobody knows who is asking: there is no token, or one that nobody issued."""


class ForbiddenError(PenstockError):
    """Whoever is asking may not do this."""


class BundleError(PenstockError):
    """A bundle is damaged, half-written or written by an incompatible version."""


class SurgeryError(PenstockError):
    """Gates cannot be put into this network."""


class VerificationError(PenstockError):
    """An exported graph does not answer as the network that it was made from."""


class NotReadyError(PenstockError):
    """A call was made before the call that it depends on."""


class NotFittedError(NotReadyError):
    """The object has not seen any data yet: call ``fit`` first."""


class NotCalibratedError(NotReadyError):
    """The detector has no threshold yet: call ``calibrate`` first."""
