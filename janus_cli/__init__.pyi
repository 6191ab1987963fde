from janus_cli.decoding.likelihood import Score as Score
from janus_cli.decoding.translate import Result as Result
from janus_cli.decoding.translate import Translator as Translator
from janus_cli.decoding.translate import load as load
from janus_cli.errors import JanusError as JanusError

__version__: str
