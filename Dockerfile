# The command line on CPUs, with the bundled model:
#
#   docker build --build-arg PIP_EXTRA_INDEX_URL=URL -t orthus .
#   docker run --rm -u "$(id -u):$(id -g)" -v "$PWD:/pictures" orthus generate "a snowman" -o out.png
#
# The versions are those of constraints.txt. URL is PyTorch's index of builds for CPUs; without it
# pip takes the build with CUDA, which is gigabytes larger.
FROM python:3.11-slim-bookworm AS build
WORKDIR /source
RUN python -m venv /orthus
COPY constraints.txt pyproject.toml README.md LICENSE ./
COPY orthus_core orthus_core
COPY orthus_cli orthus_cli
COPY recipes recipes
COPY docs/orthus.1 docs/orthus.1
# pip reads this variable by itself.
ARG PIP_EXTRA_INDEX_URL
RUN /orthus/bin/pip install --no-cache-dir -c constraints.txt .

FROM python:3.11-slim-bookworm
# Any user of the host may run it (docker run -u): models and caches then still have a place.
RUN useradd --uid 1000 --create-home orthus && chmod 1777 /home/orthus && mkdir -m 1777 /pictures
COPY --from=build /orthus /orthus
ENV PATH=/orthus/bin:$PATH HOME=/home/orthus
USER orthus
WORKDIR /pictures
ENTRYPOINT ["orthus"]
CMD ["--help"]
