"""MiniGenEval: GenEval's six tasks, record format and rules on 64 px emoji scenes, read by our own small detector.

A score from here is a MiniGenEval score and never a GenEval score: the pictures, the prompts and the detector are ours.
"""
