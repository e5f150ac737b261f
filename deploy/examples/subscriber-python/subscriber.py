#!/usr/bin/env python3
"""Prints each image as it is promoted, or with --all every event as one line of JSON.

    subscriber.py [--all] [nats://127.0.0.1:4222]
"""

import asyncio
import json
import sys

import nats
from google.protobuf.json_format import MessageToDict
from sluice.events.v1 import facts_pb2


async def main(everything, url="nats://127.0.0.1:4222"):
    client = await nats.connect(url)
    subject = "sluice.v1.>" if everything else "sluice.v1.image.promoted.>"
    facts = await client.jetstream().subscribe(subject, stream="EVENTS", ordered_consumer=True)
    async for message in facts.messages:
        headers = {name.lower(): value for name, value in message.headers.items()}
        kind = getattr(facts_pb2, headers["ce-type"].rpartition(".")[2], None)
        if kind is None:
            continue  # A newer version of Sluice published it.
        fact = kind.FromString(message.data)
        if everything:
            name = ".".join(message.subject.split(".")[2:4])
            print(json.dumps({"event": name, "id": headers["ce-id"], "data": MessageToDict(fact)}), flush=True)
        else:
            print(f"{fact.target}:{fact.target_tag} is {fact.digest}", flush=True)


arguments = sys.argv[1:]
asyncio.run(main("--all" in arguments, *(argument for argument in arguments if argument != "--all")))
