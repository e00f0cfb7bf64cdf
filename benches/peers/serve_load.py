"""`candor serve` under more load than it has places for: answers at five strengths, streams that are
dropped or read slowly, connections that stop in their headers, bodies of random bytes.

    benches/peers/run.sh load [--seconds 600] [--clients 90]

Says every few seconds how much memory the server holds and how it replied. Exits with an error where a
greedy answer is not the one that the same request got before, a request gets no reply, or the memory
after the first sixth grows by more than 5 %. Linux only: reads /proc.
"""

import argparse
import asyncio
import json
import os
import random
import subprocess
import tempfile
import time

QUESTIONS = ["What is the capital of Australia?", "What is the capital of France?", "What color is the sky?"]
STRENGTHS = [0, 2, 5, 10, 15]


def start(program, folder):
    """A server with a vector of the built-in model's; gives it with its port and the vector's name."""
    environment = {**os.environ, "CANDOR_CACHE": folder}
    fit = [program, "fit", "-k", "3", "--alpha", "10", "--json"]
    subprocess.run(fit, check=True, stdout=subprocess.DEVNULL, env=environment)
    command = [program, "serve", "--json", "--port", "0", "-t", "1"]
    server = subprocess.Popen(command, stdout=subprocess.PIPE, text=True, env=environment)
    text = ""
    for line in server.stdout:
        text += line
        try:
            report = json.loads(text)
        except ValueError:
            continue
        return server, int(report["listen"].rsplit(":", 1)[1]), report["vectors"][0]
    raise SystemExit("the server ended before it answered")


def memory(server):
    with open(f"/proc/{server.pid}/status") as status:
        return next(int(line.split()[1]) for line in status if line.startswith("VmRSS"))


class Load:
    def __init__(self, port, vector):
        self.port, self.vector = port, vector
        self.replies, self.answers, self.wrong = {}, {}, 0

    def count(self, what):
        self.replies[what] = self.replies.get(what, 0) + 1

    async def send(self, body, drop=None, pause=0):
        reader, writer = await asyncio.open_connection("127.0.0.1", self.port)
        head = "POST /v1/chat/completions HTTP/1.1\r\nhost: localhost\r\nconnection: close\r\n"
        writer.write(f"{head}content-length: {len(body)}\r\n\r\n".encode() + body)
        await writer.drain()
        await asyncio.sleep(pause if drop is None else drop)
        reply = None if drop is not None else await asyncio.wait_for(reader.read(), 120)
        writer.close()
        return reply

    async def turn(self, dice):
        kind = dice.random()
        question, strength = dice.choice(QUESTIONS), dice.choice(STRENGTHS)
        vectors = [{"source": self.vector, "scale": strength}]
        body = {"messages": [{"role": "user", "content": question}], "temperature": 0, "max_tokens": 12}
        body["steering"] = {"vectors": vectors}
        if kind < 0.03:
            _, writer = await asyncio.open_connection("127.0.0.1", self.port)
            writer.write(b"POST /v1/chat/completions HTTP/1.1\r\nhost: loc")
            await asyncio.sleep(0.5)
            writer.close()
            return self.count("half a request")
        if kind < 0.1:
            reply = await self.send(dice.randbytes(dice.randrange(200)))
        elif kind < 0.25:
            endless = {**body, "stream": True, "temperature": 1, "max_tokens": 200}
            await self.send(json.dumps(endless).encode(), drop=dice.random() * 0.05)
            return self.count("left")
        elif kind < 0.3:
            reply = await self.send(json.dumps({**body, "stream": True}).encode(), pause=2)
        else:
            reply = await self.send(json.dumps(body).encode())
        status = reply[9:12].decode()
        self.count(status)
        if status == "200" and kind >= 0.3:
            text = json.loads(reply.split(b"\r\n\r\n", 1)[1])["choices"][0]["message"]["content"]
            self.wrong += self.answers.setdefault((question, strength), text) != text
        elif status == "429":
            await asyncio.sleep(0.05)

    async def client(self, seed, end):
        dice = random.Random(seed)
        while time.monotonic() < end:
            try:
                await self.turn(dice)
            except (OSError, TimeoutError) as error:
                self.count(type(error).__name__)


async def run(server, load, seconds, n_client):
    begin = time.monotonic()
    clients = [asyncio.create_task(load.client(i, begin + seconds)) for i in range(n_client)]
    held = []
    for i in range(6):
        await asyncio.sleep(begin + (i + 1) * seconds / 6 - time.monotonic())
        held.append(memory(server))
        print(f"{time.monotonic() - begin:5.0f} s  {held[-1] / 1024:.1f} MiB  {load.replies}", flush=True)
    await asyncio.gather(*clients)
    return held


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--candor", required=True, help="the program")
    parser.add_argument("--seconds", type=float, default=600)
    parser.add_argument("--clients", type=int, default=90)
    args = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        server, port, vector = start(args.candor, folder)
        try:
            load = Load(port, vector)
            held = asyncio.run(run(server, load, args.seconds, args.clients))
        finally:
            server.terminate()
            assert server.wait(60) == 0, "the server did not end well"
    print(f"{load.wrong} wrong answers to {len(load.answers)} different requests")
    assert load.wrong == 0 and max(held) <= 1.05 * held[0], held
    strange = set(load.replies) - {"200", "400", "429", "left", "half a request"}
    assert not strange, strange


if __name__ == "__main__":
    main()
