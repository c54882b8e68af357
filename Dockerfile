# The command `momentum` and nothing else: `docker build -t momentum .`, then
# `docker run --rm --env MOMENTUM_DATABASE_URL momentum status`.
#
# The same commit gives the same files: the versions are those of constraints.txt, and files have the time
# SOURCE_DATE_EPOCH. Name the base with a digest, PYTHON=python:3.13-slim@sha256:..., if it has to stay the same too.
ARG PYTHON=python:3.13-slim

FROM ${PYTHON} AS build
ARG SOURCE_DATE_EPOCH=0
ENV PIP_CONSTRAINT=/source/constraints.txt \
    PIP_DISABLE_PIP_VERSION_CHECK=1 \
    PIP_NO_CACHE_DIR=1 \
    PIP_ROOT_USER_ACTION=ignore
WORKDIR /source
COPY pyproject.toml hatch_build.py constraints.txt README.md LICENSE ./
COPY alembic alembic
COPY momentum momentum
RUN python3 -m venv --without-pip /opt/momentum \
 && python3 -m pip --python /opt/momentum/bin/python install --no-compile '.[metrics]' \
 && find /opt/momentum -exec touch --no-dereference --date "@${SOURCE_DATE_EPOCH}" {} +

FROM ${PYTHON}
COPY --from=build /opt/momentum /opt/momentum
# No account with a password, and no folder that it may write to: a run needs none.
USER 10001:10001
ENV HOME=/nonexistent \
    PATH=/opt/momentum/bin:$PATH \
    PYTHONDONTWRITEBYTECODE=1 \
    PYTHONUNBUFFERED=1
WORKDIR /
ENTRYPOINT ["momentum"]
CMD ["--help"]
