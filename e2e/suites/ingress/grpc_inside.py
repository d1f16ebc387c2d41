"""A gRPC server that runs inside a sandbox: grpc_inside.py PORT. Its messages are bytes, so that it needs no generated code."""

import concurrent.futures
import sys

import grpc


def ident(message):
    return message


def repeat(message, _context):
    for number in range(5):
        yield message + b"%d" % number


def join(messages, context):
    context.set_trailing_metadata((("x-count", "3"),))
    return b"".join(messages)


def echo(messages, _context):
    yield from messages


def refuse(_message, context):
    context.send_initial_metadata((("x-seen", dict(context.invocation_metadata()).get("x-asked", "")),))
    context.set_trailing_metadata((("x-reason", "closed"), ("x-raw-bin", b"\0\1\xff")))
    context.abort(grpc.StatusCode.FAILED_PRECONDITION, "no way – today")


METHODS = {
    "/test.Test/Unary": grpc.unary_unary_rpc_method_handler(lambda message, _context: message, ident, ident),
    "/test.Test/Repeat": grpc.unary_stream_rpc_method_handler(repeat, ident, ident),
    "/test.Test/Join": grpc.stream_unary_rpc_method_handler(join, ident, ident),
    "/test.Test/Echo": grpc.stream_stream_rpc_method_handler(echo, ident, ident),
    "/test.Test/Refuse": grpc.unary_unary_rpc_method_handler(refuse, ident, ident),
}


class Handler(grpc.GenericRpcHandler):
    def service(self, details):
        return METHODS.get(details.method)


server = grpc.server(concurrent.futures.ThreadPoolExecutor(8), handlers=[Handler()])
server.add_insecure_port(f"0.0.0.0:{sys.argv[1]}")
server.start()
server.wait_for_termination()
