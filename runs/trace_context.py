"""The OpenTelemetry trace in which a run was asked for, handed on to the run's processes.

The names are those of OpenTelemetry's specification for environment variables as carriers: a worker's code that is
instrumented continues the client's trace. Without a trace there are none.
"""

from __future__ import annotations


def trace_variables() -> dict[str, str]:
    """``TRACEPARENT`` and perhaps ``TRACESTATE`` (W3C Trace Context) of the current span; empty without one."""
    try:
        from opentelemetry.trace.propagation.tracecontext import TraceContextTextMapPropagator
    except ImportError:  # a server without MCP's packages, as in a command of its own
        return {}
    carrier: dict[str, str] = {}
    TraceContextTextMapPropagator().inject(carrier)
    return {name.upper(): value for name, value in carrier.items()}
