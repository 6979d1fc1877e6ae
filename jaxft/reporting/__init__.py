"""What a run tells its user: live progress, metric files, plots and the HTML report.

This room stands on the lowest floor: it knows numbers and names, and nothing of models, data or devices.
"""
