"""The command lines: fastnn.train, fastnn.predict, fastnn.report, fastnn.warm."""
