"""A client without a client library: one transaction, tried again with the same request_id until it is known.

    client.py --coordinator http://127.0.0.1:7420 --request-id order-1 \
        --key-value a:count:1 --json p:'{"put": {"k": "v"}}' [--stream]

prints the outcome as one line of JSON. With --stream the call goes over a stream, where it would share the way
with others.
"""

import argparse
import json
import sys
import time

import grpc
from handfast.v1 import key_value_pb2, transaction_pb2, transaction_pb2_grpc, types_pb2

# After these the outcome is unknown or nothing was done; either way the same request may be sent again.
AGAIN = (grpc.StatusCode.UNAVAILABLE, grpc.StatusCode.DEADLINE_EXCEEDED, grpc.StatusCode.RESOURCE_EXHAUSTED)
CODES = {code.value[0]: code for code in grpc.StatusCode}
# What a broken connection can look like, besides.
BROKEN = (grpc.StatusCode.CANCELLED, grpc.StatusCode.UNKNOWN, grpc.StatusCode.INTERNAL)


def add(text):
    participant, key, amount = text.split(":")
    operation = key_value_pb2.KeyValueOperation(
        key=key.encode(), add=key_value_pb2.KeyValueAdd(amount=int(amount))
    )
    work = key_value_pb2.KeyValueWork(operations=[operation])
    return transaction_pb2.BranchWork(participant=participant, payload=work.SerializeToString())


def raw(text):
    participant, payload = text.split(":", 1)
    return transaction_pb2.BranchWork(participant=participant, payload=payload.encode())


class Failed(Exception):
    """The one call of a stream failed, or the stream ended before its answer."""

    def __init__(self, code):
        super().__init__(code)
        self.code = code


def alone(service, request):
    try:
        return service.ExecuteTransaction(request, timeout=40).outcome
    except grpc.RpcError as error:
        raise Failed(error.code()) from error


def over_a_stream(service, request):
    call = transaction_pb2.TransactionCall(call_id=7, execute=request)
    call.timeout.FromSeconds(40)
    frame = transaction_pb2.StreamTransactionsRequest(calls=[call])
    try:
        for frame in service.StreamTransactions(iter([frame])):
            for answer in frame.answers:
                assert answer.call_id == 7
                if answer.WhichOneof("answer") == "execute":
                    return answer.execute.outcome
                raise Failed(CODES[answer.status.code])
    except grpc.RpcError as error:
        raise Failed(error.code()) from error
    raise Failed(grpc.StatusCode.UNAVAILABLE)


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("--coordinator", required=True)
    parser.add_argument("--request-id", required=True)
    parser.add_argument("--key-value", action="append", type=add, default=[])
    parser.add_argument("--json", action="append", type=raw, default=[])
    parser.add_argument("--stream", action="store_true")
    arguments = parser.parse_args()
    execute = over_a_stream if arguments.stream else alone
    request = transaction_pb2.ExecuteTransactionRequest(
        request_id=arguments.request_id, branches=arguments.key_value + arguments.json
    )
    attempts = 0
    for _ in range(300):
        attempts += 1
        try:
            with grpc.insecure_channel(arguments.coordinator.removeprefix("http://")) as channel:
                service = transaction_pb2_grpc.TransactionServiceStub(channel)
                outcome = execute(service, request)
                break
        except Failed as failed:
            if failed.code not in AGAIN + BROKEN:
                raise
            time.sleep(0.1)
    else:
        sys.exit("not answered")
    print(
        json.dumps(
            {
                "transaction_id": outcome.transaction_id,
                "state": types_pb2.TransactionState.Name(outcome.state),
                "reason": outcome.abort_reason.message,
                "repeated": outcome.repeated_request,
                "attempts": attempts,
            }
        )
    )


if __name__ == "__main__":
    main()
