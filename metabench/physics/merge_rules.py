"""The numbers of HighwayMerge's traffic: one home for the family, its compiled step and whoever plans in it."""

DT = 0.2  # s
CARS = 8  # on the main road
LENGTH = 5.0  # m of a vehicle
MAX_ACCELERATION = 3.0  # m/s^2, either way, of every vehicle
EGO_SPEED_LIMIT = 16.0  # m/s
ZONE = 30.0  # m before the merge within which drivers see the ego
CLEARANCE = 1.0  # m to the next bumper that a merge must leave, at its moment

ACCELERATION, DECELERATION = 2.0, 2.0  # m/s^2 comfortable, of the driver model
HEADWAY, JAM_DISTANCE = 0.25, 2.0  # s and m that a driver keeps
HURRY = 1.4  # what the driver behind another would drive at, times the traffic's speed
CLOSING_HEADWAY, CLOSING_DISTANCE, CLOSING_HURRY = 0.1, 1.5, 1.5  # of a driver who closes the gap, at 3 m/s^2
LEAST_GAP = 0.5  # m; shorter ones, negative ones too, count as this
FREE = 1e9  # m to a car in front that is not there

HIDAS_ZONE = 18.0  # m before the merge within which drivers after Hidas see the ego
HIDAS_GAP, HIDAS_TIME = 1.0, 0.5  # m, and s times the speed difference: what a giving-way driver wants left
