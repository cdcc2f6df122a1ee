# For people with a registry: builds the binary in a container. Without one, scripts/image makes the same image
# from a binary built on this machine.
FROM rust:1.95-bookworm AS build
WORKDIR /src
COPY . .
RUN RUSTFLAGS='-C target-feature=+crt-static' \
    cargo build --release --locked --target "$(uname -m)-unknown-linux-gnu" \
 && cp "target/$(uname -m)-unknown-linux-gnu/release/pohmelfs" /pohmelfs \
 && strip /pohmelfs \
 && mkdir /data

FROM scratch
COPY --from=build /pohmelfs /pohmelfs
COPY cluster-configs/compose /etc/pohmelfs
COPY --from=build /data /data
VOLUME /data
ENTRYPOINT ["/pohmelfs"]
