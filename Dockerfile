# The command line on CPUs, with the bundled model:
#
#   docker build -t orthus .
#   docker run --rm -u "$(id -u):$(id -g)" -v "$PWD:/pictures" orthus generate "a snowman" -o out.png
#
# The versions are those of constraints.txt. Of torch the build without CUDA is taken, which the
# second index has under the same version.
FROM python:3.11-slim-bookworm AS build
WORKDIR /source
RUN python -m venv /opt/orthus
COPY constraints.txt pyproject.toml README.md LICENSE ./
COPY orthus_core orthus_core
COPY orthus_cli orthus_cli
COPY recipes recipes
COPY docs/orthus.1 docs/orthus.1
RUN /opt/orthus/bin/pip install --no-cache-dir -c constraints.txt \
        --extra-index-url https://download.pytorch.org/whl/cpu .

FROM python:3.11-slim-bookworm
# Any user of the host may run it (docker run -u): models and caches then still have a place.
RUN useradd --uid 1000 --create-home orthus && chmod 1777 /home/orthus && mkdir -m 1777 /pictures
COPY --from=build /opt/orthus /opt/orthus
ENV PATH=/opt/orthus/bin:$PATH HOME=/home/orthus
USER orthus
WORKDIR /pictures
ENTRYPOINT ["orthus"]
CMD ["--help"]
