# The image of GreenLang. docs/image.md says how to build and run it.
ARG BASE=python:3.11-slim-bookworm

FROM ${BASE} AS build
# With the extras otel and vault. A file of your own brings others.
ARG PINS=requirements/image.txt
WORKDIR /src
RUN python3 -m venv /opt/greenlang
COPY requirements requirements
# The settings of a package index are in no layer: the secret is a mount of this command only.
RUN --mount=type=secret,id=pip_conf,target=/etc/pip.conf \
    /opt/greenlang/bin/pip --disable-pip-version-check install --no-cache-dir --no-compile --only-binary :all: \
    --require-hashes --requirement "${PINS}"
COPY pyproject.toml README.md LICENSE ./
COPY app app
COPY migrations migrations
COPY resolvers resolvers
COPY schema schema
COPY simulator simulator
RUN /opt/greenlang/bin/pip --disable-pip-version-check install --no-cache-dir --no-compile --no-index --no-deps --no-build-isolation . \
 && /opt/greenlang/bin/pip --disable-pip-version-check uninstall --yes setuptools pip \
 && /opt/greenlang/bin/python -m compileall -q -j 0 --invalidation-mode unchecked-hash /opt/greenlang/lib

FROM ${BASE}
# Nothing in the image installs packages or changes the user. The account has a name because initdb asks for one.
RUN find / -xdev \( -path '*/site-packages/pip' -o -path '*/site-packages/pip-*' -o -path '*/site-packages/setuptools*' \
    -o -path '*/ensurepip' -o -path /usr/share/python-wheels -o -path '*/bin/pip*' \) -prune -exec rm -rf {} + \
 && find / -xdev -type f -perm /6000 -exec chmod a-s {} + \
 && groupadd --gid 10001 greenlang \
 && useradd --uid 10001 --gid 10001 --no-log-init --no-create-home --home-dir /var/lib/greenlang --shell /usr/sbin/nologin greenlang \
 && install --directory --owner=10001 --group=10001 --mode=0700 /var/lib/greenlang
COPY --from=build /opt/greenlang /opt/greenlang
# The data directory is inside the volume, because its mode is changed, and a volume may belong to root.
ENV PATH=/opt/greenlang/bin:/usr/local/bin:/usr/bin:/bin \
    PYTHONDONTWRITEBYTECODE=1 \
    PYTHONUNBUFFERED=1 \
    TMPDIR=/var/lib/greenlang \
    GREENLANG_SERVER__DATA_DIR=/var/lib/greenlang/data \
    GREENLANG_SERVER__HOST=0.0.0.0
WORKDIR /var/lib/greenlang
VOLUME /var/lib/greenlang
USER 10001:10001
EXPOSE 8400
HEALTHCHECK --interval=30s --timeout=5s --start-period=120s CMD ["greenlang", "health"]
ENTRYPOINT ["greenlang"]
CMD ["serve"]
