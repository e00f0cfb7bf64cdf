"""`candor serve` asked by OpenAI's own client: what a program written for their API meets.

    benches/peers/run.sh serve [--model model.gguf] [--record tests/recorded/openai.jsonl]

Exits with an error where an answer is not what the client's types promise. With --record, every request
is kept as the client sent it, with the status that it got: tests/serve.rs sends them again.
"""

import argparse
import json
import os
import subprocess
import tempfile

import openai

QUESTION = [{"role": "user", "content": "What is the capital of Australia?"}]


def start(program, model, folder):
    command = [program, "serve", "--json", "--port", "0", "-t", "1"]
    if model:
        command += ["-m", model]
    server = subprocess.Popen(
        command, stdout=subprocess.PIPE, text=True, env={**os.environ, "CANDOR_CACHE": folder}
    )
    text = ""
    for line in server.stdout:
        text += line
        try:
            return server, json.loads(text)["listen"]
        except ValueError:
            continue
    raise SystemExit("the server ended before it answered")


def check(client):
    model = client.models.list().data[0].id
    plain = dict(model=model, messages=QUESTION, temperature=0, max_tokens=16)

    whole = client.chat.completions.create(**plain)
    text = whole.choices[0].message.content
    assert whole.choices[0].finish_reason in ("stop", "length") and text
    assert whole.usage.total_tokens == whole.usage.prompt_tokens + whole.usage.completion_tokens
    print("chat:", text)

    chunks = list(
        client.chat.completions.create(**plain, stream=True, stream_options={"include_usage": True})
    )
    streamed = "".join(c.choices[0].delta.content or "" for c in chunks if c.choices)
    assert streamed == text, (streamed, text)
    assert chunks[-1].usage.completion_tokens == whole.usage.completion_tokens
    print("chat, streamed: the same")

    old = client.completions.create(
        model=model, prompt="Q: What is the capital of France? A:", max_tokens=4, temperature=0, logprobs=2
    )
    assert len(old.choices[0].logprobs.tokens) == old.usage.completion_tokens
    print("completion:", old.choices[0].text)

    likely = client.chat.completions.create(**plain, logprobs=True, top_logprobs=5)
    content = likely.choices[0].logprobs.content
    assert len(content) == likely.usage.completion_tokens
    assert all(len(token.top_logprobs) == 5 and token.logprob <= 0 for token in content)
    print("log probabilities:", [round(token.logprob, 3) for token in content][:4])

    schema = {
        "type": "object",
        "properties": {"city": {"enum": ["Sydney", "Canberra"]}, "sure": {"type": "boolean"}},
        "required": ["city", "sure"],
        "additionalProperties": False,
    }
    form = {"type": "json_schema", "json_schema": {"name": "answer", "schema": schema, "strict": True}}
    reply = client.chat.completions.create(**{**plain, "max_tokens": 100}, response_format=form)
    value = json.loads(reply.choices[0].message.content)
    assert value["city"] in ("Sydney", "Canberra") and isinstance(value["sure"], bool)
    print("JSON schema:", value)

    several = client.chat.completions.create(**{**plain, "temperature": 1}, n=3, seed=7)
    again = client.chat.completions.create(**{**plain, "temperature": 1}, n=3, seed=7)
    texts = [choice.message.content for choice in several.choices]
    assert len(texts) == 3 and texts == [choice.message.content for choice in again.choices]
    print("three answers, twice the same:", texts)

    off = client.chat.completions.create(**plain, extra_body={"steering": False})
    assert off.choices[0].message.content
    for extra, kind in [
        ({"tools": [{"type": "function", "function": {"name": "f"}}]}, openai.BadRequestError),
        ({"steering": "no such vector"}, openai.BadRequestError),
        ({"temperature": -1}, openai.BadRequestError),
    ]:
        try:
            client.chat.completions.create(**plain | {"extra_body": extra})
        except kind as error:
            print("refused:", error.body["message"])
        else:
            raise AssertionError(f"{extra} was taken")


def recorder(path):
    """A client of the API's own kind that keeps what it sends."""

    def keep(response):
        request = response.request
        drop = {"host", "content-length", "authorization"}
        headers = {name: value for name, value in request.headers.items() if name.lower() not in drop}
        line = {
            "method": request.method,
            "path": request.url.path,
            "headers": headers,
            "body": json.loads(request.content) if request.content else None,
            "status": response.status_code,
        }
        with open(path, "a") as file:
            file.write(json.dumps(line) + "\n")

    open(path, "w").close()
    return openai.DefaultHttpxClient(event_hooks={"response": [keep]})


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--candor", required=True, help="the program")
    parser.add_argument("--record", metavar="FILE", help="keep the requests in FILE")
    parser.add_argument("--model", help="a GGUF file [default: the built-in model]")
    args = parser.parse_args()
    program, model = args.candor, args.model
    with tempfile.TemporaryDirectory() as folder:
        server, address = start(program, model, folder)
        try:
            client = recorder(args.record) if args.record else None
            address = f"http://{address}/v1"
            check(openai.OpenAI(base_url=address, api_key="none", max_retries=0, http_client=client))
        finally:
            server.terminate()
            assert server.wait(60) == 0, "the server did not end well"
    print("all is well, with openai", openai.__version__)


if __name__ == "__main__":
    main()
