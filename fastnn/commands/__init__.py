"""The commands: fastnn.train, fastnn.predict, fastnn.report, fastnn.warm."""
