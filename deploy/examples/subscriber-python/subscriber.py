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
from nats.js.errors import NotFoundError
from sluice.events.v1 import facts_pb2

# Pulls are in a stream of their own.
STREAMS = ("EVENTS", "PULLS")


async def follow(context, stream, consumer, show):
    facts = await context.pull_subscribe_bind(consumer, stream)
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
    if isinstance(fact, facts_pb2.ImagePromoted):
        print(f"{fact.target}:{fact.target_tag} is {fact.digest}", flush=True)


def show_event(subject, event_id, fact):
    name = ".".join(subject.split(".")[2:4])
    print(json.dumps({"event": name, "id": event_id, "data": MessageToDict(fact)}), flush=True)


async def has_consumer(context, stream, name):
    try:
        await context.consumer_info(stream, name)
        return True
    except NotFoundError:
        return False


async def create_consumers(context, options):
    # Without a durable consumer it begins with the oldest fact; the server forgets an unused one after a minute.
    name = options.durable or f"example-{uuid.uuid4().hex}"
    streams, subject = (STREAMS, "sluice.v1.>") if options.all else (("EVENTS",), "sluice.v1.image.promoted.>")
    config = ConsumerConfig(
        name=name,
        durable_name=options.durable,
        filter_subject=subject,
        inactive_threshold=None if options.durable else 60,
    )
    for stream in streams:
        await context.add_consumer(stream, config)
    return [(stream, name) for stream in streams]


async def main(options):
    user = f"subscriber-{options.subscriber}" if options.subscriber else options.user
    password = options.password_file and options.password_file.read_text().strip()
    client = await nats.connect(
        options.url,
        user=user if password else None,
        password=password,
        # A user gets its answers under its own name.
        inbox_prefix=f"_INBOX_{user}",
    )
    context = client.jetstream()
    if options.subscriber:
        # The consumer of `sluice subscriber add` is named as the user, and is where its events are.
        consumers = [(stream, user) for stream in STREAMS if await has_consumer(context, stream, user)]
    else:
        consumers = await create_consumers(context, options)
    show = show_event if options.all else show_promotion
    await asyncio.gather(*(follow(context, stream, consumer, show) for stream, consumer in consumers))


parser = argparse.ArgumentParser(description=__doc__)
parser.add_argument("url", nargs="?", default="nats://127.0.0.1:4222")
parser.add_argument("--all", action="store_true")
parser.add_argument("--subscriber", metavar="NAME", help="as in `sluice subscriber add NAME`")
parser.add_argument("--password-file", type=Path, help="as in sluice-data/keys/nats/subscriber-NAME")
parser.add_argument("--user", default="subscriber", help="in place of --subscriber, one that may create consumers")
parser.add_argument("--durable", metavar="NAME", help="with --user, keep the place over restarts, under this name")
asyncio.run(main(parser.parse_args()))
