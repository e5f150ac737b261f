#!/usr/bin/env python3
"""Prints each image as it is promoted, or with --all every event as one line of JSON."""

import argparse
import asyncio
import json
import uuid
from pathlib import Path

import nats
from google.protobuf.json_format import MessageToDict
from nats.js.api import ConsumerConfig
from sluice.events.v1 import facts_pb2


async def follow(context, stream, subject, durable, show):
    # Without a durable consumer it begins with the oldest fact; the server forgets an unused one after a minute.
    name = durable or f"subscriber-{uuid.uuid4().hex}"
    config = ConsumerConfig(
        name=name,
        durable_name=durable,
        filter_subject=subject,
        inactive_threshold=None if durable else 60,
    )
    await context.add_consumer(stream, config)
    facts = await context.pull_subscribe_bind(name, stream)
    while True:
        try:
            messages = await facts.fetch(100, timeout=30)
        except nats.errors.TimeoutError:
            continue
        for message in messages:
            headers = {key.lower(): value for key, value in message.headers.items()}
            kind = getattr(facts_pb2, headers["ce-type"].rpartition(".")[2], None)
            if kind is not None:  # Otherwise a newer version of Sluice published it.
                show(message.subject, headers["ce-id"], kind.FromString(message.data))
            await message.ack()


def show_promotion(_subject, _id, fact):
    print(f"{fact.target}:{fact.target_tag} is {fact.digest}", flush=True)


def show_event(subject, event_id, fact):
    name = ".".join(subject.split(".")[2:4])
    print(json.dumps({"event": name, "id": event_id, "data": MessageToDict(fact)}), flush=True)


async def main(options):
    password = options.password_file and options.password_file.read_text().strip()
    client = await nats.connect(
        options.url,
        user=options.user if password else None,
        password=password,
        # A user gets its answers under its own name.
        inbox_prefix=f"_INBOX_{options.user}",
    )
    context = client.jetstream()
    if options.all:
        # Pulls are in a stream of their own.
        await asyncio.gather(
            follow(context, "EVENTS", "sluice.v1.>", options.durable, show_event),
            follow(context, "PULLS", "sluice.v1.>", options.durable, show_event),
        )
    else:
        subject = "sluice.v1.image.promoted.>"
        await follow(context, "EVENTS", subject, options.durable, show_promotion)


parser = argparse.ArgumentParser(description=__doc__)
parser.add_argument("url", nargs="?", default="nats://127.0.0.1:4222")
parser.add_argument("--all", action="store_true")
parser.add_argument("--user", default="subscriber")
parser.add_argument("--password-file", type=Path, help="as in sluice-data/keys/nats/subscriber")
parser.add_argument("--durable", metavar="NAME", help="keep the place over restarts, under this name")
asyncio.run(main(parser.parse_args()))
