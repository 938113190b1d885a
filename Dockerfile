# The HTTP service (docs/serving.md):
#   docker build --tag timesformer .
#   docker run --read-only --tmpfs /tmp --publish 8000:8000 --volume "$PWD/best.pyth:/model/best.pyth:ro" timesformer
FROM python:3.12-slim

# Options of pip, such as an index with builds of PyTorch for CPUs only
ARG PIP_OPTIONS=""

WORKDIR /app
COPY requirements.txt setup.py pyproject.toml README.md LICENSE ./
COPY timesformer timesformer
COPY configs configs
# hadolint ignore=SC2086
RUN pip install --no-cache-dir --constraint requirements.txt $PIP_OPTIONS '.[serve]' \
    && useradd --create-home --uid 10001 service

USER 10001
ENV OMP_WAIT_POLICY=PASSIVE
EXPOSE 8000
HEALTHCHECK --start-period=60s CMD ["python", "-c", "import urllib.request as r; r.urlopen('http://127.0.0.1:8000/health')"]
# SIGTERM answers what is running, then stops.
ENTRYPOINT ["timesformer", "serve", "--address", "0.0.0.0"]
CMD ["--checkpoint", "/model/best.pyth"]
