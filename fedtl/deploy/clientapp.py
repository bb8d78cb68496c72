"""What a SuperNode starts for each message in place of Flower's own ``flwr-clientapp``.

Flower's process would install the app that the server sent and run it, so whoever controls the server could run any
code at the client. This one passes the message to the client agent (:mod:`fedtl.deploy.agent`), a long-lived process
with the data, the model, and the fedtl that is installed there. An app that the server sends is not even unpacked.
Torch is not imported: for a small client, importing it for each message would take longer than the training.

A SuperNode finds this program as ``flwr-clientapp`` in a folder that :mod:`fedtl.deploy.client` puts first on its
``PATH``. The two functions that are replaced below are those by which Flower unpacks and imports an app.
"""

from __future__ import annotations

import argparse
import json
import os
from collections.abc import Callable
from multiprocessing.connection import Client
from pathlib import Path

import numpy as np
from flwr.app import Context, Error, Message, MessageType
from flwr.clientapp import ClientApp
from flwr.clientapp.mod import LocalDpMod
from flwr.common.args import add_args_flwr_app_common, try_obtain_flwr_app_token
from flwr.supercore.tls import validate_and_resolve_root_certificates
from flwr.supernode.runtime import run_clientapp

from fedtl.deploy import wire
from fedtl.deploy.flower import SOCKET
from fedtl.deploy.study import EXPERIMENT
from fedtl.wire.messages import ARRAYS, FAILURES, STUDY, VECTOR
from fedtl.wire.privacy import Privacy

NO_ANSWER = 0
"""Flower's ``ErrorCode.UNKNOWN``; the text says what happened."""


def answer(message: Message, context: Context) -> Message:
    """Let the client agent answer."""
    words = {"kind": message.metadata.message_type}
    try:
        with Client(os.environ[SOCKET], "AF_UNIX") as agent:
            wire.send(agent, wire.SocketMessage(words, message.content))
            reply = wire.receive(agent)
    except (OSError, EOFError):
        return Message(Error(NO_ANSWER, "the client's own process ended; its log says why"), reply_to=message)
    if reply.content is None:
        return Message(Error(NO_ANSWER, str(reply.words["error"])), reply_to=message)
    return Message(reply.content, reply_to=message)


def with_privacy(message: Message, context: Context, proceed: Callable[[Message, Context], Message]) -> Message:
    """Clip uploads and add noise, by Flower's ``LocalDpMod``, if the experiment asks for it."""
    study = message.content.config_records.get(STUDY)
    experiment = json.loads(str(study[EXPERIMENT])) if study else {}
    privacy = experiment.get("deploy", {}).get("privacy")
    if message.metadata.message_type != MessageType.TRAIN or privacy is None:
        return proceed(message, context)
    # Flower's mod clips the difference from the arrays of the message, which must be the model where training starts.
    arrays = message.content.array_records
    if list(arrays) != [ARRAYS] or list(arrays[ARRAYS]) != [VECTOR]:
        return Message(
            Error(NO_ANSWER, "with deploy.privacy a message has one model and nothing else"), reply_to=message
        )
    if not np.isfinite(arrays[ARRAYS][VECTOR].numpy()).all():
        return Message(Error(NO_ANSWER, "the global model is not finite"), reply_to=message)
    reply = proceed(message, context)
    if reply.has_error() or FAILURES in reply.content:
        return reply
    how = Privacy.model_validate(privacy)
    mod = LocalDpMod(how.clipping_norm, how.distance, how.epsilon, how.delta)
    try:
        noised: Message = mod(message, context, lambda *_: reply)
    except ZeroDivisionError:
        return Message(Error(NO_ANSWER, "its update is 0, which Flower's clipping cannot scale"), reply_to=message)
    return noised


app = ClientApp(mods=[with_privacy])
app.train()(answer)
app.evaluate()(answer)
app.query()(answer)


def main() -> None:
    """``flwr-clientapp``, with the client's own app."""
    # As in Flower's own program, whose module would import the whole SuperNode each time.
    parser = argparse.ArgumentParser(prog="flwr-clientapp")
    parser.add_argument("--runtime-api-address", required=True)
    add_args_flwr_app_common(parser)
    args = parser.parse_args()
    run_clientapp.install_from_fab = lambda *_, **__: Path()  # type: ignore[attr-defined]
    run_clientapp.get_load_client_app_fn = lambda *_, **__: lambda *_: app  # type: ignore[attr-defined]
    run_clientapp.run_clientapp(
        runtime_api_address=args.runtime_api_address,
        token=try_obtain_flwr_app_token(args),
        insecure=args.insecure,
        certificates=validate_and_resolve_root_certificates(args.root_certificates, args.insecure),
        parent_pid=args.parent_pid,
        runtime_dependency_install=False,
    )


if __name__ == "__main__":
    main()
