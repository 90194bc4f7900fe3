"""Object detection on a network's maps: COCO folders, Faster R-CNN with FPN, training, AP."""
