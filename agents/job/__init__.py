"""The job process: loads, measures, and reports one job after another."""
