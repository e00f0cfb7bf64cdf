# candor on a small Debian: `docker build -t candor . && docker run --rm candor` runs the demo.
# A model of yours: docker run --rm -it -v "$PWD:/data" candor chat -m /data/model.gguf

FROM rust:1-bookworm AS build
RUN apt-get update \
    && apt-get install -y --no-install-recommends cmake libclang-dev \
    && rm -rf /var/lib/apt/lists/*
WORKDIR /candor
COPY . .
# The image may run on another machine than the one that builds it.
RUN scripts/dist.sh --binary-only

FROM debian:bookworm-slim
RUN apt-get update \
    && apt-get install -y --no-install-recommends ca-certificates libgomp1 libstdc++6 \
    && rm -rf /var/lib/apt/lists/* \
    && useradd --create-home candor
COPY --from=build /candor/target/dist/candor /usr/local/bin/candor
USER candor
WORKDIR /home/candor
ENTRYPOINT ["candor"]
CMD ["demo"]
