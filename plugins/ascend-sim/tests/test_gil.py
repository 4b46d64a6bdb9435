"""Why the async path is worth having: `mdl.execute` and `rt.memcpy` hold the GIL, `synchronize_stream` does not (1.0, 9)."""

import threading

import pytest

import acl_sim as acl
import tiny_models
from acl_sim import testing
from acl_sim._machine import machine

COPY_US, COMPUTE_US, ROUNDS = 100.0, 100.0, 5


class Slot:
    """A model, its datasets, pinned staging and a stream, used by one thread."""

    def __init__(self, path):
        self.model, ret = acl.mdl.load_from_file(str(path))
        assert ret == 0
        desc = acl.mdl.create_desc()
        acl.mdl.get_desc(desc, self.model)
        sizes = acl.mdl.get_input_size_by_index(desc, 0), acl.mdl.get_output_size_by_index(desc, 0)
        self.sizes = sizes
        self.device = [acl.rt.malloc(size, 0)[0] for size in sizes]
        self.host = [acl.rt.malloc_host(size)[0] for size in sizes]
        self.datasets = []
        for address, size in zip(self.device, sizes, strict=True):
            dataset = acl.mdl.create_dataset()
            acl.mdl.add_dataset_buffer(dataset, acl.create_data_buffer(address, size))
            self.datasets.append(dataset)
        self.stream = acl.rt.create_stream()[0]
        acl.rt.memset(self.host[0], sizes[0], 0, sizes[0])

    def blocking(self):
        (din, dout), (hin, hout), (nin, nout) = self.device, self.host, self.sizes
        codes = [
            acl.rt.memcpy(din, nin, hin, nin, 1),
            acl.mdl.execute(self.model, *self.datasets),
            acl.rt.memcpy(hout, nout, dout, nout, 2),
        ]
        assert codes == [0, 0, 0]

    def streamed(self):
        (din, dout), (hin, hout), (nin, nout) = self.device, self.host, self.sizes
        codes = [
            acl.rt.memcpy_async(din, nin, hin, nin, 1, self.stream),
            acl.mdl.execute_async(self.model, *self.datasets, self.stream),
            acl.rt.memcpy_async(hout, nout, dout, nout, 2, self.stream),
            acl.rt.synchronize_stream(self.stream),
        ]
        assert codes == [0, 0, 0, 0]


@pytest.fixture
def model(tmp_path):
    profile = tmp_path / "profile.json"
    profile.write_text(f'{{"copy_overhead_us": {COPY_US}, "affine": {{"*": [{COMPUTE_US}, 0]}}}}')
    path = tiny_models.convert(tmp_path, tiny_models.dense(rows=2), "--input_shape=x:2,6")
    testing.reset(device_time=str(profile))
    acl.init()
    acl.rt.set_device(0)
    return path


def makespan(path, threads, way):
    """Device time of so many threads, each doing its rounds on its own slot; and of the set-up before, to be taken off."""
    slots = [Slot(path) for _ in range(threads)]
    here = machine()
    with here.lock:
        begin = here.clock.thread().cursor
    barrier = threading.Barrier(threads)
    ends = []

    def body(slot):
        acl.rt.set_device(0)
        barrier.wait(30)
        for _ in range(ROUNDS):
            getattr(slot, way)()
        with here.lock:
            ends.append(here.clock.thread().cursor)

    workers = [threading.Thread(target=body, args=(slot,)) for slot in slots]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join(60)
    assert len(ends) == threads
    return max(ends) - begin


def test_blocking_calls_of_two_threads_add_up(model):
    assert makespan(model, 2, "blocking") == 2 * ROUNDS * (2 * COPY_US + COMPUTE_US)


def test_streams_of_two_threads_overlap(model):
    alone = ROUNDS * (2 * COPY_US + COMPUTE_US)
    both = makespan(model, 2, "streamed")
    assert alone <= both <= alone + 2 * COPY_US


def test_one_thread_gains_nothing_by_it(model):
    assert makespan(model, 1, "blocking") == makespan(model, 1, "streamed") == ROUNDS * (2 * COPY_US + COMPUTE_US)
