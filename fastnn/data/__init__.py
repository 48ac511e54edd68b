"""Features and targets: conversion of a user's arrays to the forms that engines take."""
