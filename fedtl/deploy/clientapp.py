"""What a SuperNode starts for every message in place of Flower's own ``flwr-clientapp``.

Flower's process would install the app that the server sent and run it: whoever rules the server could run any code
at the client. This one hands the message to the client's own long-lived process, which has the data, the model and
fedtl as it is installed there (:mod:`fedtl.deploy.agent`); what the server sent as an app is not even unpacked. And it
imports no torch, which at every message would take longer than a small client's training.

A SuperNode finds it as ``flwr-clientapp`` in a folder that :mod:`fedtl.deploy.client` puts first on its ``PATH``; the
two functions that are replaced below are the ones with which Flower unpacks and imports an app.
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
    """Let the client's own process answer."""
    words = {"kind": message.metadata.message_type}
    try:
        with Client(os.environ[SOCKET], "AF_UNIX") as desk:
            wire.send(desk, wire.Part(words, message.content))
            reply = wire.receive(desk)
    except (OSError, EOFError):
        return Message(Error(NO_ANSWER, "the client's own process ended; its log says why"), reply_to=message)
    if reply.content is None:
        return Message(Error(NO_ANSWER, str(reply.words["error"])), reply_to=message)
    return Message(reply.content, reply_to=message)


def with_privacy(message: Message, context: Context, proceed: Callable[[Message, Context], Message]) -> Message:
    """Clip and noise what is uploaded, by Flower's ``LocalDpMod``, where the experiment says so."""
    study = message.content.config_records.get(STUDY)
    experiment = json.loads(str(study[EXPERIMENT])) if study else {}
    privacy = experiment.get("deploy", {}).get("privacy")
    if message.metadata.message_type != MessageType.TRAIN or privacy is None:
        return proceed(message, context)
    # Flower's mod clips the difference to whichever arrays a message has: they must be what the client trains from.
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
        return Message(Error(NO_ANSWER, "its update is 0, which Flower's clipping cannot do"), reply_to=message)
    return noised


app = ClientApp(mods=[with_privacy])
app.train()(answer)
app.evaluate()(answer)
app.query()(answer)


def main() -> None:
    """``flwr-clientapp``, with the client's own app."""
    # As Flower's own does it, but for its module, with which the whole SuperNode would be imported each time.
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
