# The serving image: `penstock serve` and what it needs, without torch.
#
#     docker build -t penstock .                    # CPU
#     docker build -t penstock --build-arg GPU=1 .  # with CUDA's libraries; run it with --gpus all
#     docker run --read-only --tmpfs /tmp -p 8001:8001 -p 8002:8002 -v "$PWD/models:/models:ro" penstock
#
# Nothing is written but /tmp, by models whose files come with a request, and the sink's folder where one is set.
# docs/deployment.md says more.
ARG PYTHON=3.12

FROM python:${PYTHON}-slim AS build
WORKDIR /source
COPY pyproject.toml README.md LICENSE ./
COPY src src
COPY service service
COPY export export
ARG GPU=0
# "serve,tracing,parquet" for traces and for Parquet records.
ARG EXTRAS=serve
RUN python -m venv /opt/penstock \
    && /opt/penstock/bin/pip install --no-cache-dir ".[$EXTRAS]" \
    && if [ "$GPU" = 1 ]; then /opt/penstock/bin/pip install --no-cache-dir 'onnxruntime-gpu[cuda,cudnn]'; fi
# A dependency that drags torch in would make the image gigabytes larger without anyone noticing.
RUN /opt/penstock/bin/python -c "import importlib.util, sys; sys.exit('torch is in the serving image' if importlib.util.find_spec('torch') else 0)" \
    && /opt/penstock/bin/python -c "import penstock.service.server"

FROM python:${PYTHON}-slim
COPY --from=build /opt/penstock /opt/penstock
RUN useradd --system --uid 10001 --user-group --no-create-home penstock
ENV PATH=/opt/penstock/bin:$PATH \
    PYTHONUNBUFFERED=1 \
    PYTHONDONTWRITEBYTECODE=1 \
    PENSTOCK_MODEL_REPOSITORY=/models \
    PENSTOCK_HOST=0.0.0.0 \
    PENSTOCK_GRPC_PORT=8001 \
    PENSTOCK_METRICS_PORT=8002
USER 10001:10001
VOLUME /models
EXPOSE 8001 8002
STOPSIGNAL SIGTERM
# With TLS, set PENSTOCK_PROBE_AUTHORITY to the server's certificate and PENSTOCK_PROBE_SERVER_NAME to a name in it.
HEALTHCHECK --interval=10s --timeout=6s --start-period=60s \
    CMD python -m penstock.service.probe "127.0.0.1:$PENSTOCK_GRPC_PORT"
ENTRYPOINT ["penstock", "serve"]
