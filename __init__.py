"""fastvideo-port: port video models into FastVideo and know whether the numbers are right."""

__version__ = "0.1.0"
