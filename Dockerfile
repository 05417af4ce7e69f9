# The app in a container, as it also runs in a Hugging Face Space:
#   docker build -t oasisvq . && docker run -p 8501:8501 oasisvq
FROM python:3.11-slim

# PyTorch without CUDA is a tenth of the size. For a machine with a GPU: --build-arg TORCH_INDEX=
ARG TORCH_INDEX=https://download.pytorch.org/whl/cpu

# Spaces run containers as user 1000.
RUN useradd --create-home --uid 1000 user
USER user
WORKDIR /home/user/app
ENV PATH=/home/user/.local/bin:$PATH PYTHONUNBUFFERED=1

COPY --chown=user requirements.txt ./
RUN pip install --user --no-cache-dir ${TORCH_INDEX:+--extra-index-url "$TORCH_INDEX"} -r requirements.txt

COPY --chown=user app.py ./
COPY --chown=user .streamlit .streamlit
COPY --chown=user pages pages
COPY --chown=user oasisvq oasisvq
COPY --chown=user checkpoints checkpoints

EXPOSE 8501
HEALTHCHECK CMD ["python", "-c", "from urllib.request import urlopen; urlopen('http://localhost:8501/_stcore/health')"]

# A Space shows the app inside a frame of another site, where the cookie of the XSRF check does not arrive and uploads
# would fail.
CMD ["streamlit", "run", "app.py", "--server.address=0.0.0.0", "--server.port=8501", \
     "--server.headless=true", "--server.enableXsrfProtection=false", "--server.fileWatcherType=none"]
