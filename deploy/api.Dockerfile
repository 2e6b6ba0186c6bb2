# The API, the maintainer and the migrations: no torch. From the top folder: docker build -f deploy/api.Dockerfile .

FROM python:3.12-slim-bookworm AS build
ENV PIP_DISABLE_PIP_VERSION_CHECK=1 PIP_NO_CACHE_DIR=1
RUN python -m venv /opt/animatic
WORKDIR /src
# First the dependencies alone: this layer is built anew only when one of these files changes.
COPY pyproject.toml constraints.txt README.md LICENSE ./
RUN /opt/animatic/bin/pip install --constraint constraints.txt '.[api,wandb]'
COPY shared shared
COPY api api
COPY worker worker
COPY cli cli
COPY migrations migrations
RUN /opt/animatic/bin/pip install --no-deps --force-reinstall .
COPY deploy/make_bucket.py /opt/animatic/make_bucket.py

FROM python:3.12-slim-bookworm
RUN useradd --uid 10001 --create-home animatic
COPY --from=build /opt/animatic /opt/animatic
ENV PATH=/opt/animatic/bin:$PATH PYTHONUNBUFFERED=1 PYTHONDONTWRITEBYTECODE=1 ANIMATIC_API_HOST=0.0.0.0
WORKDIR /home/animatic
USER animatic
EXPOSE 8000
CMD ["python", "-m", "api.serve"]
