"""A participant with the five unary calls only, in a language of its own.

It keeps everything in one file, state.json, which is replaced as a whole and synced before anything is
answered. It never opens a session (the generated servicer answers UNIMPLEMENTED), never calls Inquire and
knows nothing of one-phase commit: the coordinator makes up for all of that.

The work of a branch is JSON: {"put": {"key": "value"}} or {"refuse": "why"}.
"""

import argparse
import json
import os
import random
import sys
import threading
import time
from concurrent import futures

import grpc
from handfast.v1 import coordinator_pb2, coordinator_pb2_grpc, participant_pb2, participant_pb2_grpc


class Store:
    """The durable state of the participant."""

    def __init__(self, folder):
        os.makedirs(folder, exist_ok=True)
        self.folder = folder
        self.path = os.path.join(folder, "state.json")
        if os.path.exists(self.path):
            with open(self.path, encoding="utf-8") as file:
                self.state = json.load(file)
        else:
            incarnation = random.getrandbits(63) | 1
            self.state = {
                "incarnation": incarnation,
                "epochs": {},
                "data": {},
                "prepared": {},
                "finished": {},
            }
            self.save()

    def save(self):
        """Durable when it returns."""
        unfinished = self.path + ".new"
        with open(unfinished, "w", encoding="utf-8") as file:
            json.dump(self.state, file, indent=1, sort_keys=True)
            file.flush()
            os.fsync(file.fileno())
        os.replace(unfinished, self.path)
        folder = os.open(self.folder, os.O_RDONLY)
        try:
            os.fsync(folder)
        finally:
            os.close(folder)


class Participant(participant_pb2_grpc.ParticipantServiceServicer):
    """The calls. Session and PreCommit are left as they were generated."""

    def __init__(self, name, store):
        self.name = name
        self.store = store
        self.lock = threading.Lock()

    def _admit(self, request, context):
        """Whoever is addressed is us, and whoever speaks is not of the past."""
        if request.participant != self.name:
            context.abort(
                grpc.StatusCode.FAILED_PRECONDITION,
                f"this is participant {self.name}, not {request.participant}",
            )
        origin = request.origin
        epochs = self.store.state["epochs"]
        slot = str(origin.slot)
        if origin.epoch < epochs.get(slot, 0):
            context.abort(
                grpc.StatusCode.FAILED_PRECONDITION,
                f"epoch {origin.epoch} is over: epoch {epochs[slot]} has been seen",
            )
        epochs[slot] = origin.epoch

    def _vote(self, vote, reason=""):
        return participant_pb2.PrepareResponse(
            vote=vote,
            reason=reason,
            participant_incarnation=self.store.state["incarnation"],
        )

    def Prepare(self, request, context):
        with self.lock:
            self._admit(request, context)
            state = self.store.state
            if request.transaction_id in state["prepared"]:
                return self._vote(participant_pb2.VOTE_PREPARED)
            if request.transaction_id in state["finished"]:
                return self._vote(participant_pb2.VOTE_NO, "this transaction is over here")
            if not request.carries_work:
                return self._vote(participant_pb2.VOTE_NO, "no work of this transaction is here")
            try:
                work = json.loads(request.payload)
            except ValueError as error:
                return self._vote(participant_pb2.VOTE_NO, f"the work is no JSON: {error}")
            if "refuse" in work:
                return self._vote(participant_pb2.VOTE_NO, work["refuse"])
            for other, held in state["prepared"].items():
                if held.keys() & work["put"].keys():
                    return self._vote(participant_pb2.VOTE_NO, f"a key is locked by {other}")
            state["prepared"][request.transaction_id] = work["put"]
            self.store.save()
            return self._vote(participant_pb2.VOTE_PREPARED)

    def Commit(self, request, context):
        with self.lock:
            self._admit(request, context)
            state = self.store.state
            writes = state["prepared"].pop(request.transaction_id, None)
            if writes is not None:
                state["data"].update(writes)
                state["finished"][request.transaction_id] = "committed"
                self.store.save()
            elif state["finished"].get(request.transaction_id) == "aborted":
                context.abort(grpc.StatusCode.FAILED_PRECONDITION, "aborted here")
            elif request.participant_incarnation != state["incarnation"]:
                context.abort(grpc.StatusCode.DATA_LOSS, "DATA LOSS: voted by another log")
            return participant_pb2.CommitResponse()

    def Abort(self, request, context):
        with self.lock:
            self._admit(request, context)
            state = self.store.state
            if state["finished"].get(request.transaction_id) == "committed":
                context.abort(grpc.StatusCode.FAILED_PRECONDITION, "committed here")
            state["prepared"].pop(request.transaction_id, None)
            state["finished"][request.transaction_id] = "aborted"
            self.store.save()
            return participant_pb2.AbortResponse()

    def ListInDoubt(self, request, context):
        with self.lock:
            wanted = request.transaction_id
            branches = [
                participant_pb2.InDoubtBranch(transaction_id=held)
                for held in self.store.state["prepared"]
                if wanted in ("", held)
            ]
            return participant_pb2.ListInDoubtResponse(branches=branches)


def register(arguments, incarnation):
    """Until it is accepted: a participant that nobody knows is of no use."""
    address = arguments.coordinator.removeprefix("http://")
    request = coordinator_pb2.RegisterParticipantRequest(
        participant=arguments.name,
        endpoint=f"http://{arguments.listen}",
        participant_incarnation=incarnation,
    )
    while True:
        try:
            with grpc.insecure_channel(address) as channel:
                service = coordinator_pb2_grpc.CoordinatorServiceStub(channel)
                service.RegisterParticipant(request, timeout=5)
                return
        except grpc.RpcError as error:
            print(f"not registered yet: {error.code()}", file=sys.stderr, flush=True)
            time.sleep(0.2)


def main():
    parser = argparse.ArgumentParser()
    for name in ("--name", "--data", "--coordinator", "--listen"):
        parser.add_argument(name, required=True)
    arguments = parser.parse_args()
    store = Store(arguments.data)
    server = grpc.server(futures.ThreadPoolExecutor(max_workers=8))
    service = Participant(arguments.name, store)
    participant_pb2_grpc.add_ParticipantServiceServicer_to_server(service, server)
    if server.add_insecure_port(arguments.listen) == 0:
        sys.exit(f"cannot listen on {arguments.listen}")
    server.start()
    print(f"participant {arguments.name} listening on {arguments.listen}", flush=True)
    register(arguments, store.state["incarnation"])
    server.wait_for_termination()


if __name__ == "__main__":
    main()
