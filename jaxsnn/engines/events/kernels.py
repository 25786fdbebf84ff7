"""The event-driven simulation of one image, compiled by Numba.

In each step: the input spikes are drawn; the weights of those neurons that spiked are added to the
currents of the next layer; currents are added to potentials; who is at the threshold spikes. All
that an image needs stays in a core's caches, but for the weights of the neurons that spike.

Loops over neurons go over whole slices, with few arrays in each: so LLVM turns them into vector
instructions. (An index like `first + j` could be negative, for all that it knows, and is not.)
"""

# ruff: noqa: D103
from __future__ import annotations

from math import ceil
from typing import NamedTuple, no_type_check

import numpy as np
from numba import njit, types
from numba.extending import overload

from jaxsnn.conversion.rounding import NUMBER_BITS
from jaxsnn.engines.events.kinds import (
    DENSE,
    FIRST_SPIKE,
    MAXIMA,
    NEURONS,
    NO_STOP,
    TARGET,
    TO_ZERO,
)
from jaxsnn.support.arrays import aligned
from jaxsnn.support.random import PARITY, ROTATIONS

# Without reference counts, which would be kept for every slice, and without a form for C.
BARE = {"nogil": True, "cache": True, "boundscheck": False, "_nrt": False, "no_cfunc_wrapper": True}
# What only kernels call; a form for Python would take a tenth of the time to compile.
INNER = BARE | {"no_cpython_wrapper": True}
# Parts of one loop, which pass many arrays to each other.
INLINED = INNER | {"inline": "always"}

_HALF = 1 << 15
# One in each byte of a word of 64 bits.
_EACH_BYTE = np.uint64(0x0101010101010101)


# -- Random bits: `support.random` in Numba, whose integers grow unless told otherwise


@njit(**INNER)
@no_type_check
def _mix(one, two, distance):
    one = np.uint32(one + two)
    left = np.uint32(two << np.uint32(distance))
    right = np.uint32(two >> np.uint32(32 - distance))
    return one, np.uint32((left | right) ^ one)


@njit(**INNER)
@no_type_check
def _four_rounds(one, two, distances):
    one, two = _mix(one, two, distances[0])
    one, two = _mix(one, two, distances[1])
    one, two = _mix(one, two, distances[2])
    return _mix(one, two, distances[3])


@njit(**BARE)
@no_type_check
def threefry(key_one, key_two, one, two):
    third = np.uint32(key_one ^ key_two ^ np.uint32(PARITY))
    one, two = np.uint32(one + key_one), np.uint32(two + key_two)
    one, two = _four_rounds(one, two, ROTATIONS[0])
    one, two = np.uint32(one + key_two), np.uint32(two + third + np.uint32(1))
    one, two = _four_rounds(one, two, ROTATIONS[1])
    one, two = np.uint32(one + third), np.uint32(two + key_one + np.uint32(2))
    one, two = _four_rounds(one, two, ROTATIONS[0])
    one, two = np.uint32(one + key_one), np.uint32(two + key_two + np.uint32(3))
    one, two = _four_rounds(one, two, ROTATIONS[1])
    one, two = np.uint32(one + key_two), np.uint32(two + third + np.uint32(4))
    one, two = _four_rounds(one, two, ROTATIONS[0])
    return np.uint32(one + third), np.uint32(two + key_one + np.uint32(5))


@njit(**INNER)
@no_type_check
def _draw_blocks(key_one, key_two, blocks, ones, twos):
    for j in range(len(blocks)):
        ones[j], twos[j] = threefry(key_one, key_two, np.uint32(0), blocks[j])


# -- Inputs. An input that spikes more often than not is taken to spike, and the steps in which it
# -- does not are the exceptions: the rarer of the two is what work is done for.


@njit(**INNER)
@no_type_check
def _exceptions_low(words, wanted, flags):
    for j in range(len(words)):
        flags[j] = ((words[j] & np.uint32(0xFFFF)) < wanted[j]) != (wanted[j] > np.uint32(_HALF))


@njit(**INNER)
@no_type_check
def _exceptions_high(words, wanted, flags):
    for j in range(len(words)):
        flags[j] = ((words[j] >> np.uint32(16)) < wanted[j]) != (wanted[j] > np.uint32(_HALF))


@njit(**INNER)
@no_type_check
def _place(word, flag):
    """The place of the byte that has the flag: the bytes below it, added up by a product."""
    return np.int64(((flag - np.uint64(1)) & _EACH_BYTE) * _EACH_BYTE >> np.uint64(56)) + (
        word << 3
    )


@njit(**BARE)
@no_type_check
def flagged(words, some, found):
    """The places of the bytes that are 1, where a word is eight of them and the others are 0.

    Nearly without branches: whether a neuron spikes cannot be foreseen, and a processor that
    foresees wrongly loses as much time as it takes to add a few hundred weights.
    """
    size = 0
    for w in range(len(words)):
        some[size] = w
        size += words[w] != 0
    count = 0
    for i in range(size):
        w = some[i]
        word = words[w]
        number = word * _EACH_BYTE >> np.uint64(56)
        first = word & (~word + np.uint64(1))
        found[count] = _place(w, first)
        word ^= first
        second = word & (~word + np.uint64(1))
        found[count + 1] = _place(w, second)  # if there is none, the next one takes its place
        word ^= second
        more = count + 2
        while word != 0:
            lowest = word & (~word + np.uint64(1))
            found[more] = _place(w, lowest)
            more += 1
            word ^= lowest
        count += np.int64(number)
    return count


# -- Currents


@njit(**INNER)
@no_type_check
def _add(current, weights):
    for j in range(len(current)):
        current[j] += weights[j]


@njit(**INNER)
@no_type_check
def _subtract(current, weights):
    for j in range(len(current)):
        current[j] -= weights[j]


@njit(**INNER)
@no_type_check
def _add_four(current, one, two, three, four):
    for j in range(len(current)):
        current[j] += one[j] + two[j] + three[j] + four[j]


@njit(**INNER)
@no_type_check
def _subtract_four(current, one, two, three, four):
    for j in range(len(current)):
        current[j] -= one[j] + two[j] + three[j] + four[j]


def _walk(one, four, sign):
    """A function that adds what senders bring on a connection to currents, or takes it away.

    Args:
        one: adds or takes away a run of weights.
        four: does so with four runs at once.
        sign: 1 or -1, for single weights.
    """

    @njit(**INNER)
    @no_type_check
    def rows(current, weights, senders):
        size = len(current)
        whole = len(senders) // 4 * 4
        for i in range(0, whole, 4):
            four(
                current,
                weights[senders[i] * size :][:size],
                weights[senders[i + 1] * size :][:size],
                weights[senders[i + 2] * size :][:size],
                weights[senders[i + 3] * size :][:size],
            )
        for i in range(whole, len(senders)):
            one(current, weights[senders[i] * size :][:size])

    @njit(**INNER)
    @no_type_check
    def walk(kind, weights, starts, runs, targets, gains, current, senders):
        if kind == DENSE:
            rows(current, weights, senders)
        elif kind == TARGET:
            for sender in senders:
                current[targets[sender]] += sign * gains[sender]
        else:
            for sender in senders:
                for r in range(starts[sender], starts[sender + 1]):
                    neuron, weight, length = runs[r].neuron, runs[r].weight, runs[r].length
                    one(current[neuron : neuron + length], weights[weight : weight + length])

    return walk


_add_runs = _walk(_add, _add_four, 1)
_subtract_runs = _walk(_subtract, _subtract_four, -1)


def _along(walk):
    """A function that does what `walk` does along a connection of a network."""

    @njit(**INLINED)
    @no_type_check
    def receive(tables, connection, current, senders):
        walk(
            connection.kind,
            tables.weights[connection.weight :],
            tables.starts[connection.start :],
            tables.runs,
            tables.targets[connection.target :],
            tables.gains[connection.target :],
            current,
            senders,
        )

    return receive


_receive, _take_away = _along(_add_runs), _along(_subtract_runs)


# -- Constant currents: numbers in the place of spikes, once for all steps


def _in_steps(total):
    """A sum of weights times multiples of 2^-16, to the nearest integer; a float as it is."""
    raise NotImplementedError(total)


@overload(_in_steps)
def _(total):
    if isinstance(total, types.Integer):
        return lambda total: (total + (1 << NUMBER_BITS - 1)) >> NUMBER_BITS
    return lambda total: total


@njit(**INNER)
@no_type_check
def _add_multiple(total, number, weights):
    for j in range(len(total)):
        total[j] += number * weights[j]


@njit(**INNER)
@no_type_check
def _add_numbers(kind, weights, starts, runs, targets, gains, current, numbers, total):
    """Add what numbers bring on a connection to currents; `total` holds sums of their products."""
    size = len(current)
    _clear(total[:size])
    for i in range(len(numbers)):
        number = numbers[i]
        if number == 0:
            continue
        if kind == DENSE:
            _add_multiple(total[:size], number, weights[i * size :][:size])
        elif kind == TARGET:
            total[targets[i]] += number * gains[i]
        else:
            for r in range(starts[i], starts[i + 1]):
                neuron, weight, length = runs[r].neuron, runs[r].weight, runs[r].length
                into = total[neuron : neuron + length]
                _add_multiple(into, number, weights[weight : weight + length])
    for j in range(size):
        current[j] += _in_steps(total[j])


# -- Neurons


@njit(**INNER)
@no_type_check
def _copy(target, source):
    for j in range(len(target)):
        target[j] = source[j]


@njit(**INNER)
@no_type_check
def _clear(target):
    for j in range(len(target)):
        target[j] = 0


@njit(**INNER)
@no_type_check
def _integrate(potential, current, threshold, flags):
    for j in range(len(potential)):
        potential[j] += current[j]
        flags[j] = potential[j] >= threshold[j]


@njit(**INNER)
@no_type_check
def _integrate_ready(potential, current, threshold, free_from, step, flags):
    """As `_integrate`, for neurons whose refractory period has passed."""
    for j in range(len(potential)):
        ready = free_from[j] <= step
        if ready:
            potential[j] += current[j]
        flags[j] = ready and potential[j] >= threshold[j]


@njit(**INNER)
@no_type_check
def _reset(neurons, potential, threshold, counts, free_from, reset, free):
    for j in neurons:
        counts[j] += 1
        if reset == TO_ZERO:
            potential[j] = 0
        else:
            potential[j] -= threshold[j]
    if len(free_from) > 0:
        for j in neurons:
            free_from[j] = free


@njit(**INNER)
@no_type_check
def _pool(potential, threshold, gains, senders, targets, free_from, step, found, seen):
    """Neurons with few inputs each: only those that receive a spike are looked at."""
    for sender in senders:
        target = targets[sender]
        if len(free_from) == 0 or free_from[target] <= step:
            potential[target] += gains[sender]
    count = 0
    for sender in senders:
        target = targets[sender]
        # A refractory neuron is below its threshold: it was reset, and receives nothing.
        fires = np.uint8(potential[target] >= threshold[target]) & np.uint8(seen[target] == 0)
        seen[target] |= fires
        found[count] = target
        count += fires
    for i in range(count):
        seen[found[i]] = 0
    return count


@njit(**INNER)
@no_type_check
def _largest_of(counts, senders, sent, starts, runs, found):
    """Neurons that spike where the largest number of spikes of their senders has grown.

    Args:
        counts: their spikes so far, brought forward: the largest number of each window.
        senders: who spiked in this step.
        sent: the spikes of each sender so far, those of this step included.
        starts: for each sender its first run, and the end.
        runs: runs of windows that it is in.
        found: the neurons that spike, filled in.
    """
    count = 0
    for sender in senders:
        spikes = sent[sender]
        for r in range(starts[sender], starts[sender + 1]):
            for j in range(runs[r].neuron, runs[r].neuron + runs[r].length):
                if spikes > counts[j]:
                    counts[j] = spikes
                    found[count] = j
                    count += 1
    return count


@njit(**INNER)
@no_type_check
def _collect(received, current, free_from, step):
    """Add up what the outputs receive."""
    for j in range(len(received)):
        if len(free_from) == 0 or free_from[j] <= step:
            received[j] += current[j]


@njit(**INNER)
@no_type_check
def _add_at(values, places, added):
    for place in places:
        values[place] += added[place]


@njit(**INNER)
@no_type_check
def _leads(values, units, asked):
    """Whether the largest value is so far above the second."""
    largest, second = np.float32(values[0]) * units[0], np.float32(0)
    for j in range(1, len(units)):
        value = np.float32(values[j]) * units[j]
        if value > largest:
            largest, second = value, largest
        elif value > second or j == 1:
            second = value
    return largest - second >= asked


@njit(**INNER)
@no_type_check
def _decided(settings, accumulates, units, counts, received, first_class, steps):
    if settings.stop == FIRST_SPIKE:
        return first_class >= 0
    if settings.stop == NO_STOP:
        return False
    every = settings.stop_every
    asked = max(settings.stop_spikes - (steps // every if every > 0 else 0), 1)
    if accumulates:
        return _leads(received, units, np.float32(asked))
    largest, second = counts[0], 0
    for j in range(1, len(units)):
        if counts[j] > largest:
            largest, second = counts[j], largest
        elif counts[j] > second:
            second = counts[j]
    return largest - second >= asked


# -- One image


class Scratch(NamedTuple):
    """Arrays that an image needs while it is simulated."""

    current: np.ndarray  # [P] what neurons receive in a step
    base: np.ndarray  # [P] of that, what they receive in every step
    driven: np.ndarray  # [L] whether any neuron receives something in every step
    total: np.ndarray  # [P] sums of numbers that are no spikes
    flags: np.ndarray  # [P] who fires
    words: np.ndarray  # the flags, eight in a word
    seen: np.ndarray  # [P] of poolings, who fires
    spikes: np.ndarray  # [P] of each layer, who fired in this step
    sizes: np.ndarray  # [L] how many these are
    senders: np.ndarray  # inputs that spike for once
    rest: np.ndarray  # inputs that usually spike, and do not
    found: np.ndarray
    some: np.ndarray


class Draws(NamedTuple):
    """The blocks of four draws that an image needs, for the inputs q·n + b of block b."""

    blocks: np.ndarray
    ones: np.ndarray
    twos: np.ndarray
    wanted: np.ndarray  # [4, blocks]
    pixels: np.ndarray  # [4, blocks]
    flags: np.ndarray  # [4, blocks] which inputs are exceptions
    words: np.ndarray  # the flags, eight in a word


@njit(**INNER)
@no_type_check
def _needed_blocks(image, draws):
    """Fill in the blocks of four draws that any input needs, and what these inputs are."""
    quarter = (len(image) + 3) // 4
    count = 0
    for b in range(quarter):
        needed = False
        for q in range(4):
            pixel = q * quarter + b
            value = image[pixel] if pixel < len(image) else np.uint32(0)
            draws.wanted[q, count] = value
            draws.pixels[q, count] = pixel
            needed = needed or value > 0
        if needed:
            draws.blocks[count] = b
            count += 1
    return count


@njit(**INNER)
@no_type_check
def _usual_inputs(numbers, draws, size, senders):
    """The inputs that spike more often than not, of which only the exceptions are drawn.

    Of numbers that are no spikes, those that are not zero: they are sent in every step.
    """
    usual = 0
    for i in range(len(numbers)):
        if numbers[i] != 0:
            senders[usual] = i
            usual += 1
    for q in range(4):
        for j in range(size):
            if draws.wanted[q, j] > _HALF:
                senders[usual] = draws.pixels[q, j]
                usual += 1
    return usual


@njit(**INLINED)
@no_type_check
def _prepare(tables, steady, numbers, usual, scratch):
    """What each neuron receives in every step: its bias, and what usual inputs send."""
    _copy(scratch.base, steady)
    for number in range(len(tables.layers)):
        layer = tables.layers[number]
        base = scratch.base[layer.first : layer.end]
        for c in range(layer.connection, layer.last_connection):
            connection = tables.connections[c]
            if connection.source < 0 and len(numbers) > 0:
                _add_numbers(
                    connection.kind,
                    tables.weights[connection.weight :],
                    tables.starts[connection.start :],
                    tables.runs,
                    tables.targets[connection.target :],
                    tables.gains[connection.target :],
                    base,
                    numbers,
                    scratch.total,
                )
            elif connection.source < 0:
                _receive(tables, connection, base, usual)
        driven = False
        for j in range(len(base)):
            driven |= base[j] != 0
        scratch.driven[number] = driven


@njit(**INLINED)
@no_type_check
def _draw(keys, step, draws, size, some, found):
    """Draw the inputs of a step: the exceptions, as places among the draws."""
    key_one, key_two = threefry(keys[0], keys[1], np.uint32(0), np.uint32(step))
    ones, twos, wanted, flags = draws.ones[:size], draws.twos[:size], draws.wanted, draws.flags
    _draw_blocks(key_one, key_two, draws.blocks[:size], ones, twos)
    _exceptions_low(ones, wanted[0, :size], flags[0, :size])
    _exceptions_high(ones, wanted[1, :size], flags[1, :size])
    _exceptions_low(twos, wanted[2, :size], flags[2, :size])
    _exceptions_high(twos, wanted[3, :size], flags[3, :size])
    return flagged(draws.words, some, found)


@njit(**INLINED)
@no_type_check
def _sorted_exceptions(exceptions, draws, senders, rest, input_counts, fan_outs):
    """The inputs that spike for once, and those that do not; and the operations of both."""
    wanted, pixels = draws.wanted.reshape(-1), draws.pixels.reshape(-1)
    more, less, operations = 0, 0, 0
    for exception in exceptions:
        pixel = pixels[exception]
        missing = np.int64(wanted[exception] > _HALF)
        rest[less], senders[more] = pixel, pixel
        less += missing
        more += 1 - missing
        input_counts[pixel] += 1 - 2 * missing
        operations += (1 - 2 * missing) * fan_outs[pixel]
    return more, less, operations


@njit(**INLINED)
@no_type_check
def _currents(number, tables, scratch, more, less):
    """What the neurons of a layer receive in a step."""
    layer = tables.layers[number]
    now = scratch.current[layer.first : layer.end]
    if scratch.driven[number]:
        _copy(now, scratch.base[layer.first : layer.end])
    else:
        _clear(now)
    for c in range(layer.connection, layer.last_connection):
        connection = tables.connections[c]
        if connection.source < 0:
            _receive(tables, connection, now, scratch.senders[:more])
            _take_away(tables, connection, now, scratch.rest[:less])
        else:
            first = tables.layers[connection.source].first
            sent = scratch.spikes[first : first + scratch.sizes[connection.source]]
            _receive(tables, connection, now, sent)
    return now


@njit(**INNER)
@no_type_check
def _sum_at(values, places):
    total = 0
    for place in places:
        total += values[place]
    return total


def _in_units(value, unit):
    """A potential of fixed point as a number; one of floating point as it is."""
    raise NotImplementedError(value, unit)


@overload(_in_units)
def _(value, unit):
    if isinstance(value, types.Integer):
        return lambda value, unit: np.float32(value) * unit
    return lambda value, unit: value


@njit(**INLINED)
@no_type_check
def _write_output(fired, last, tables, image, t, step, state, results):
    """Write down what the output neurons did in a step, as readouts see it."""
    if len(fired) > 0 and state.first_class[image] < 0:
        lowest = tables.classes[fired[0]]
        for neuron in fired:
            lowest = min(lowest, tables.classes[neuron])
        state.first_class[image] = lowest
        state.first_step[image] = step + 1
    results.first_class[t, image] = state.first_class[image]
    for j in range(len(tables.classes)):
        place, unit = tables.classes[j], tables.units[j]
        results.counts[t, image, place] = state.counts[image, last + j]
        potential, received = state.potentials[image, last + j], state.received[image, j]
        results.potentials[t, image, place] = _in_units(potential, unit)
        results.received[t, image, place] = _in_units(received, unit)


@njit(**INLINED)
@no_type_check
def _fire(number, tables, scratch, potential, free, step, more, less, received):
    """One step of a layer of neurons: how many fire; who does is in `Scratch.spikes`."""
    layer = tables.layers[number]
    threshold = tables.thresholds[layer.first : layer.end]
    now = _currents(number, tables, scratch, more, less)
    if number + 1 == len(tables.layers):
        _collect(received, now, free, step)
    fired = scratch.flags[layer.first : layer.end]
    if len(free) > 0:
        _integrate_ready(potential, now, threshold, free, step, fired)
    else:
        _integrate(potential, now, threshold, fired)
    words = scratch.words[layer.first >> 3 : layer.end >> 3]
    return flagged(words, scratch.some, scratch.spikes[layer.first :])


@njit(**INLINED)
@no_type_check
def _advance(number, tables, settings, scratch, step, more, less, image, state):
    """One step of a layer: how many of its neurons fire; who does is in `Scratch.spikes`."""
    layer, connection = tables.layers[number], tables.connections[tables.layers[number].connection]
    low, high = layer.first, layer.end
    counts, found = state.counts[image, low:high], scratch.spikes[low:high]
    threshold = tables.thresholds[low:high]
    potential, free = state.potentials[image, low:high], state.free_from[image, low:high]
    if layer.kind == NEURONS:
        count = _fire(
            number, tables, scratch, potential, free, step, more, less, state.received[image]
        )
    else:
        source = tables.layers[connection.source]
        senders = scratch.spikes[source.first :][: scratch.sizes[connection.source]]
        if layer.kind == MAXIMA:
            sent = state.counts[image, source.first : source.end]
            starts = tables.starts[connection.start :]
            count = _largest_of(counts, senders, sent, starts, tables.runs, found)
            if number + 1 == len(tables.layers):
                _add_at(state.received[image], found[:count], threshold)
            return count
        targets, gains = tables.targets[connection.target :], tables.gains[connection.target :]
        seen = scratch.seen[low:high]
        count = _pool(potential, threshold, gains, senders, targets, free, step, found, seen)
    free_again = step + settings.refractory_steps
    _reset(found[:count], potential, threshold, counts, free, settings.reset, free_again)
    return count


@njit(**INLINED)
@no_type_check
def _simulate_image(image, tables, settings, inputs, state, results, scratch, draws):
    layers, last = len(tables.layers), tables.layers[len(tables.layers) - 1].first
    input_counts = state.input_counts[image]
    numbers, senders = inputs.numbers[image], scratch.senders
    size = _needed_blocks(inputs.wanted[image], draws)
    usual = _usual_inputs(numbers, draws, size, senders)
    usual_operations = _sum_at(tables.input_synapses, senders[:usual])
    _prepare(tables, inputs.steady, numbers, senders[:usual], scratch)
    _clear(draws.flags.reshape(-1))
    exit_step = 0
    done = 0
    for t in range(settings.steps):
        step = settings.first_step + t
        exceptions = _draw(inputs.keys[image], step, draws, size, scratch.some, scratch.found)
        more, less, operations = _sorted_exceptions(
            scratch.found[:exceptions],
            draws,
            senders,
            scratch.rest,
            input_counts,
            tables.input_synapses,
        )
        operations += usual_operations
        results.spikes[t, image, 0] = usual + more - less
        count = 0
        for layer in range(layers):
            count = _advance(layer, tables, settings, scratch, step, more, less, image, state)
            scratch.sizes[layer] = count
            results.spikes[t, image, layer + 1] = count
            low = tables.layers[layer].first
            operations += _sum_at(tables.synapses[low:], scratch.spikes[low : low + count])
        results.operations[t, image] = operations
        if step < settings.uncounted:
            _clear(state.received[image])
        fired = scratch.spikes[last : last + count]
        _write_output(fired, last, tables, image, t, step, state, results)
        done = t + 1
        if _decided(
            settings,
            tables.accumulates,
            tables.units,
            state.counts[image, last:],
            state.received[image],
            state.first_class[image],
            done + settings.first_step,
        ):
            exit_step = step + 1
            break
    _count_usual(numbers, draws, size, done, input_counts)
    state.exit_step[image] = exit_step


@njit(**INNER)
@no_type_check
def _count_usual(numbers, draws, size, steps, input_counts):
    for i in range(len(numbers)):
        if numbers[i] != 0:
            input_counts[i] += steps
    for q in range(4):
        for j in range(size):
            if draws.wanted[q, j] > _HALF:
                input_counts[draws.pixels[q, j]] += steps


def working_memory(tables, inputs):
    """`Scratch` and `Draws` for a network.

    Args:
        tables: `layout.Tables`, the network.
        inputs: `run.Inputs`.
    """
    blocks = ceil(ceil(inputs.wanted.shape[1] / 4) / 8) * 8
    layers, width, pixels = map(len, (tables.layers, tables.thresholds, tables.input_synapses))
    longest = max(width, 4 * blocks + 32)
    flags, input_flags = np.zeros(width, np.uint8), np.zeros((4, blocks), np.uint8)
    scratch = Scratch(
        current=aligned(np.zeros(width, tables.currents.dtype)),
        base=aligned(np.zeros(width, tables.currents.dtype)),
        driven=np.zeros(layers, np.bool_),
        total=np.zeros(width, inputs.numbers.dtype),
        flags=flags,
        words=flags.view(np.uint64),
        seen=np.zeros(width, np.uint8),
        spikes=np.empty(width + 2, np.int64),
        sizes=np.zeros(layers, np.int64),
        senders=np.empty(max(pixels, 4 * blocks) + 2, np.int64),
        rest=np.empty(4 * blocks, np.int64),
        found=np.empty(longest + 2, np.int64),
        some=np.empty(longest // 8 + 1, np.int64),
    )
    draws = Draws(
        blocks=np.empty(blocks, np.uint32),
        ones=np.empty(blocks, np.uint32),
        twos=np.empty(blocks, np.uint32),
        wanted=np.zeros((4, blocks), np.uint32),
        pixels=np.zeros((4, blocks), np.int64),
        flags=input_flags,
        words=input_flags.reshape(-1).view(np.uint64),
    )
    return scratch, draws


@njit(**BARE)
@no_type_check
def simulate_images(images, tables, settings, inputs, state, results, scratch, draws):
    """Simulate some images of a batch, each through all steps.

    Args:
        images: their places in the batch.
        tables: `layout.Tables`, the network.
        settings: `run.Settings`.
        inputs: `run.Inputs`, of the whole batch.
        state: `run.Arrays`, of the whole batch, brought forward.
        results: `run.Results`, of the whole batch, filled in.
        scratch: of `working_memory`.
        draws: likewise.
    """
    for image in images:
        if state.exit_step[image] == 0:
            _simulate_image(image, tables, settings, inputs, state, results, scratch, draws)
