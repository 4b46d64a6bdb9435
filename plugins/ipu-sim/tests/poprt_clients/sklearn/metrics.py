"""Two metrics over 1-D arrays."""

import numpy as np


def mean_squared_error(expected, found):
    return float(np.mean((np.asarray(expected, np.float64) - np.asarray(found, np.float64)) ** 2))


def mean_absolute_error(expected, found):
    return float(np.mean(np.abs(np.asarray(expected, np.float64) - np.asarray(found, np.float64))))
